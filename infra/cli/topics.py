"""``driftloop topics``: create, mend and check the catalogue's topics."""

from __future__ import annotations

import typer
from rich.table import Table

from ...schemas.topics import CATALOGUE
from ..settings import Settings
from ..topics_admin import TopicsReport, apply_topics, inspect_topics
from .console import output


def register(app: typer.Typer) -> None:
    topics = typer.Typer(help="The topics that driftloop lives on.", no_args_is_help=True)
    topics.command("apply")(apply)
    topics.command("check")(check)
    topics.command("list")(list_catalogue)
    app.add_typer(topics, name="topics")


def apply() -> None:
    """Create what is missing and mend what differs; name every difference."""
    settings = Settings()
    _print(
        apply_topics(
            settings.connection(),
            data_partitions=settings.data_partitions,
            model_partitions=settings.model_partitions,
        )
    )


def check() -> None:
    """Name every difference and change nothing. Exit code 1 when there is one."""
    settings = Settings()
    report = inspect_topics(
        settings.connection(),
        data_partitions=settings.data_partitions,
        model_partitions=settings.model_partitions,
    )
    _print(report)
    if report.created or report.differences:
        raise typer.Exit(1)


def list_catalogue() -> None:
    """Print the catalogue: who writes what, under which key, for how long."""
    table = Table("topic", "key", "written by", "kept", "holds", title="driftloop topics")
    for topic in CATALOGUE:
        days = "" if topic.retention_ms is None else f"{topic.retention_ms // 86_400_000} days"
        table.add_row(
            topic.name, topic.key, topic.written_by, "compacted" if topic.compacted else days, topic.holds
        )
    output.print(table)


def _print(report: TopicsReport) -> None:
    for name in report.created:
        output.print(f"{'created' if report.applied else 'missing'}  {name}")
    for difference in report.differences:
        output.print(f"{'mended' if report.applied else 'differs'}  {difference}", soft_wrap=True)
    if not report.created and not report.differences:
        output.print(f"all {len(CATALOGUE)} topics are as the catalogue says")
