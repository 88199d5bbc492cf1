"""``driftloop topics``: create, correct and check the catalogue's topics and their ACLs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ...schemas.errors import SettingsError
from ...schemas.topics import CATALOGUE
from ...streams.kafka.connection import Connection
from ..cluster.acl_admin import apply_acls, inspect_acls
from ..cluster.acls import ROLES, acls_of
from ..cluster.topics import TopicsReport, apply_topics, inspect_topics
from ..settings import Settings
from .console import output
from .kafka import reached

commands = typer.Typer(name="topics", help="The topics that driftloop lives on.", no_args_is_help=True)


@commands.command()
def apply() -> None:
    """Create what is missing and correct what differs; name every difference."""
    settings = Settings()
    _print(
        apply_topics(
            reached(settings),
            data_partitions=settings.data_partitions,
            model_partitions=settings.model_partitions,
        )
    )


@commands.command()
def check() -> None:
    """Name every difference and change nothing. Exit code 1 when there is one."""
    settings = Settings()
    report = inspect_topics(
        reached(settings),
        data_partitions=settings.data_partitions,
        model_partitions=settings.model_partitions,
    )
    _print(report)
    if report.created or report.differences:
        raise typer.Exit(1)


@commands.command("list")
def list_catalogue() -> None:
    """Print the catalogue: who writes what, under which key, for how long."""
    table = Table("topic", "key", "written by", "kept", "holds", title="driftloop topics")
    for topic in CATALOGUE:
        kept = "compacted" if topic.days is None else f"{topic.days} days"
        table.add_row(topic.name, topic.key, topic.written_by, kept, topic.holds)
    output.print(table)


@commands.command()
def acls(
    principal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PRINCIPAL",
            help="Who a role is on the cluster, such as join=User:joiner; may be repeated.",
            show_default="every role, as User:driftloop-ROLE",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Add what the cluster lacks.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Name what is missing and what is allowed beyond it; exit code 1.")
    ] = False,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print arguments for Kafka's kafka-acls.sh instead.")
    ] = False,
) -> None:
    """The ACLs that each role needs, and no more; --apply sets them (as a user who may alter the cluster)."""
    settings = Settings()
    named = _principals(principal or [f"{role}=User:driftloop-{role}" for role in ROLES])
    if not (apply or check):
        nowhere = Connection("", settings.topic_prefix)  # the list follows from the prefix alone
        for role, who in named:
            output.print(f"# {role} ({ROLES[role].does})", markup=False, highlight=False, soft_wrap=True)
            for acl in acls_of(role, who, nowhere):
                line = acl.command() if commands else str(acl)
                output.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    connection = reached(settings)
    wanted = {acl for role, who in named for acl in acls_of(role, who, connection)}
    report = (apply_acls if apply else inspect_acls)(connection, wanted)
    for acl in report.missing:
        output.print(f"{'added' if apply else 'missing'}   {acl}", markup=False, soft_wrap=True)
    for binding in report.beyond:
        output.print(f"beyond  {binding}", markup=False, soft_wrap=True)
    output.print(f"{len(wanted) - len(report.missing)} of {len(wanted)} ACLs were there")
    if check and (report.missing or report.beyond):
        raise typer.Exit(1)


def _principals(given: list[str]) -> list[tuple[str, str]]:
    """``ROLE=PRINCIPAL`` pairs. Raises SettingsError naming the one that is wrong."""
    pairs: list[tuple[str, str]] = []
    for text in given:
        role, _, who = text.partition("=")
        if role not in ROLES:
            raise SettingsError(f"--principal {text!r}: {role!r} is not a role; roles are {', '.join(ROLES)}")
        kind, _, name = who.partition(":")
        if not kind or not name:
            raise SettingsError(
                f"--principal {text!r}: write Kafka's name of the principal, such as {role}=User:{role}"
            )
        pairs.append((role, who))
    return pairs


def _print(report: TopicsReport) -> None:
    for name in report.created:
        output.print(f"{'created' if report.applied else 'missing'}  {name}")
    for difference in report.differences:
        output.print(f"{'corrected' if report.applied else 'differs'}  {difference}", soft_wrap=True)
    if not report.created and not report.differences:
        output.print(f"all {len(CATALOGUE)} topics are as the catalogue says")
