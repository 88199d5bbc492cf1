"""``driftloop dlq``: what the stages could not use: look at it, send it again, or drop it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from ...schemas.errors import SettingsError
from ...schemas.events import DeadLetterAction
from ...schemas.spec.durations import parse_duration_ms
from ...schemas.topics import CATALOGUE
from ..control.commands import person
from ..dead_letters.model import (
    DeadLetterError,
    DeadLetterFilter,
    DeadLetterGroup,
    DeadLetterRecord,
    group_dead_letters,
    hexdump,
    printable,
)
from ..dead_letters.replay import DeadLetterLog, no_such_dead_letter, resolve
from ..settings import Settings
from .console import errors, output
from .kafka import reached

_SHOWN_BYTES = 4_096

Ids = Annotated[list[str] | None, typer.Argument(help="Ids, or beginnings of ids.", show_default="all")]
Stage = Annotated[str | None, typer.Option(help="join, monitor, train or registrar.")]
OfTopic = Annotated[str | None, typer.Option("--topic", help="The topic that they came from.")]
Model = Annotated[str | None, typer.Option(help="The model that their bytes name.")]
Reason = Annotated[str | None, typer.Option(help="Text within the reason.")]
Since = Annotated[str | None, typer.Option(help='Written at or after: "2h" ago, or ISO 8601.')]
Until = Annotated[str | None, typer.Option(help='Written before: "1d" ago, or ISO 8601.')]
Everything = Annotated[bool, typer.Option("--all", help="All of them; needed where nothing else is given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Why = Annotated[str, typer.Option(help="Kept with the resolution.")]


commands = typer.Typer(
    name="dlq", help="Dead letters: what could not be used, with its bytes.", no_args_is_help=True
)


@commands.command()
def ls(
    stage: Stage = None,
    topic: OfTopic = None,
    model: Model = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Also those that were replayed or dropped.")
    ] = False,
    each: Annotated[bool, typer.Option("--each", help="One line for each instead of counts.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many lines.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON, without a limit.")] = False,
) -> None:
    """Count them by stage, topic, model and reason; --each lists them with their ids."""
    settings = Settings()
    wanted = _filter(settings, None, stage, topic, model, reason, since, until)
    with DeadLetterLog(reached(settings)) as log:
        resolutions = log.resolutions()
        found = (one for one in log.dead_letters(wanted) if resolved or one.id not in resolutions)
        if each:
            columns = ("id", "written", "stage", "from", "model", "reason", "is")
            states = {name: resolution.action for name, resolution in resolutions.items()}
            lines = (_described(letter, states.get(letter.id, "open")) for letter in found)
            _list(columns, ((line, _letter_cells(line)) for line in lines), limit, as_json)
        else:
            columns = ("count", "resolved", "stage", "topic", "model", "reason", "first", "last", "newest")
            groups = group_dead_letters(found, resolutions, settings.topic_prefix)
            _list(columns, ((group, _group_cells(group)) for group in groups), limit, as_json)
        if log.unreadable:
            errors.print(f"{log.unreadable} records on dead-letters are no dead letters")


def _list(
    columns: tuple[str, ...], lines: Iterable[tuple[object, tuple[str, ...]]], limit: int, as_json: bool
) -> None:
    """Print lines, each given as what JSON shows and as the cells of a table."""
    table, more = Table(*columns), 0
    for shown, cells in lines:
        if as_json:
            typer.echo(orjson.dumps(shown).decode())
        elif table.row_count < limit:
            table.add_row(*map(_safe, cells))
        else:
            more += 1
    if not as_json:
        output.print(table if table.row_count else "no dead letters")
        if more:
            output.print(f"and {more} more: --limit, or filter")


def _described(letter: DeadLetterRecord, state: str) -> dict[str, Any]:
    event = letter.event
    return {"id": letter.id, "at_ms": letter.at_ms, "stage": event.stage, "topic": event.topic,
            "partition": event.partition, "offset": event.offset, "model": letter.model,
            "reason": event.reason, "state": state}  # fmt: skip


def _letter_cells(line: dict[str, Any]) -> tuple[str, ...]:
    place = f"{line['topic']}[{line['partition']}]@{line['offset']}"
    return (line["id"], _moment(line["at_ms"]), line["stage"], place, line["model"] or "", line["reason"],
            line["state"])  # fmt: skip


def _group_cells(group: DeadLetterGroup) -> tuple[str, ...]:
    counts, times = (str(group.count), str(group.resolved)), (_moment(group.first_ms), _moment(group.last_ms))
    return (*counts, group.stage, group.topic, group.model or "", group.reason, *times, group.example)


@commands.command()
def show(
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    as_hex: Annotated[bool, typer.Option("--hex", help="The bytes as a hex dump.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Only the bytes, as they are.")] = False,
) -> None:
    """Show one: where it came from, why it was refused, what became of it, and its bytes."""
    with DeadLetterLog(reached(Settings())) as log:
        letter = log.one(dead_letter_id)
        resolution = log.resolutions().get(letter.id)
        try:
            key, value, headers = log.original(letter)
            missing = ""
        except DeadLetterError as error:
            key, value, headers, missing = letter.key, letter.value, letter.headers, str(error)
    if raw:
        typer.echo(value or b"", nl=False)
        return
    event = letter.event
    became = (
        "open"
        if resolution is None
        else f"{resolution.action} {_moment(resolution.ts)} by {resolution.by} {resolution.why}".strip()
    )
    lines = [
        ("id", letter.id),
        ("written", _moment(letter.at_ms)),
        ("stage", event.stage),
        ("reason", event.reason),
        ("topic", event.topic),
        ("partition", str(event.partition)),
        ("offset", str(event.offset)),
        ("appended", _moment(event.append_ms)),
        ("key", _shown(key)),
        *(("header", f"{name}: {_shown(content)}") for name, content in headers),
        ("state", became),
    ]
    for name, said in lines:
        line = f"{name + ':':<11}{printable(said.encode(errors='replace'))}"
        output.print(line, markup=False, highlight=False, soft_wrap=True)
    if missing:
        output.print(f"{'bytes:':<11}incomplete: {missing}", markup=False, soft_wrap=True)
    if value is None:
        output.print("value:     none")
        return
    cut = f", the first {_SHOWN_BYTES} here (--raw gives all)" if len(value) > _SHOWN_BYTES else ""
    output.print(f"value:     {len(value)} bytes{cut}", highlight=False)
    head = value[:_SHOWN_BYTES]
    output.print(hexdump(head) if as_hex else printable(head), markup=False, highlight=False, soft_wrap=True)


def _shown(content: bytes | None) -> str:
    return "none" if content is None else printable(content)


@commands.command()
def replay(
    ids: Ids = None,
    stage: Stage = None,
    topic: OfTopic = None,
    model: Model = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Also those that were dropped.")] = False,
    dry_run: DryRun = False,
    why: Why = "",
) -> None:
    """Send them again to the topic they came from, each once, however often this is run or cut off."""
    wanted = _filter(Settings(), ids, stage, topic, model, reason, since, until)
    _resolve("replayed", wanted, everything=everything, again=dropped, dry_run=dry_run, why=why)


@commands.command()
def drop(
    ids: Ids = None,
    stage: Stage = None,
    topic: OfTopic = None,
    model: Model = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    why: Why = "",
) -> None:
    """Resolve them without sending: they are no longer listed or replayed. Nothing is deleted."""
    wanted = _filter(Settings(), ids, stage, topic, model, reason, since, until)
    _resolve("dropped", wanted, everything=everything, again=False, dry_run=dry_run, why=why)


def _resolve(
    action: DeadLetterAction,
    wanted: DeadLetterFilter,
    *,
    everything: bool,
    again: bool,
    dry_run: bool,
    why: str,
) -> None:
    if wanted.everything and not everything:
        raise DeadLetterError("which ones? Give ids or filters, or --all for every open dead letter")
    connection = reached(Settings())
    if wanted.ids:  # one that names none is a typing mistake, which must not look like success
        with DeadLetterLog(connection) as log:
            known = [letter.id for letter in log.dead_letters(DeadLetterFilter(ids=wanted.ids))]
        for given in wanted.ids:
            if not any(name.startswith(given) for name in known):
                raise no_such_dead_letter(given)
    result = resolve(connection, action, wanted, by=person(), why=why, dry_run=dry_run, again=again)
    does = f"would be {action}" if dry_run else action
    topics = ", ".join(f"{count} {topic}" for topic, count in sorted(result.by_topic.items()))
    output.print(f"{result.done} {does}{f' ({topics})' if topics else ''}", highlight=False, soft_wrap=True)
    if result.already:
        output.print(f"{result.already} were resolved before and stay so", highlight=False)
    for reason, count in result.not_possible.items():
        errors.print(f"{count} cannot be {action}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if result.not_possible:
        raise typer.Exit(1)


def _filter(
    settings: Settings,
    ids: list[str] | None,
    stage: str | None,
    topic: str | None,
    model: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
) -> DeadLetterFilter:
    if topic is not None:
        names = [known.name for known in CATALOGUE]
        if topic.removeprefix(settings.topic_prefix) not in names:
            raise DeadLetterError(f"--topic {topic!r} is not a topic of driftloop: {', '.join(names)}")
    since_ms, until_ms = _time("--since", since), _time("--until", until)
    return DeadLetterFilter(tuple(ids or ()), stage, topic, model, reason, since_ms, until_ms)


def _time(option: str, text: str | None) -> int | None:
    """Unix ms. Raises SettingsError."""
    if text is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*", text):
        ago = parse_duration_ms(text)
        assert isinstance(ago, int)
        return time.time_ns() // 1_000_000 - ago
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f'{option} {text!r}: write how long ago, as "2h", or a time, as 2026-01-31T12:00'
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def _safe(text: str) -> str:
    return printable(text.encode(errors="replace")).replace("[", "\\[")


def _moment(ts_ms: int) -> str:
    """UTC. A forged time that no calendar has is shown as the number that it is."""
    try:
        return datetime.fromtimestamp(ts_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(ts_ms)
