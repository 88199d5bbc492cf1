"""``driftloop dlq``: what the stages could not use: look at it, send it again, or mark it as done with."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer
from rich.table import Table

from ...schemas.errors import SettingsError
from ...schemas.spec.durations import parse_duration_ms
from ...schemas.topics import CATALOGUE
from ..control.commands import person
from ..dead_letters.model import Heaps, Letter, LetterError, Wanted, hexdump, printable
from ..dead_letters.replay import Action, DeadLetterLog, Dealt, deal_with
from ..settings import Settings
from .console import errors, output

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
Why = Annotated[str, typer.Option(help="Kept with the mark.")]


def register(app: typer.Typer) -> None:
    dlq = typer.Typer(help="Dead letters: what could not be used, with its bytes.", no_args_is_help=True)
    dlq.command("ls")(ls)
    dlq.command("show")(show)
    dlq.command("replay")(replay)
    dlq.command("drop")(drop)
    app.add_typer(dlq, name="dlq")


def ls(
    stage: Stage = None,
    topic: OfTopic = None,
    model: Model = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    dealt_with: Annotated[
        bool, typer.Option("--dealt-with", help="Also those that were replayed or dropped.")
    ] = False,
    each: Annotated[bool, typer.Option("--each", help="One line for each instead of counts.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many lines.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON, without a limit.")] = False,
) -> None:
    """Count them by stage, topic, model and reason; --each lists them with their ids."""
    settings = Settings()
    wanted = _wanted(settings, (), stage, topic, model, reason, since, until)
    with DeadLetterLog(settings.connection()) as log:
        marks = log.marks()
        found = (one for one in log.letters(wanted) if dealt_with or one.id not in marks)
        if each:
            _list_each(found, {name: mark.action for name, mark in marks.items()}, limit, as_json)
        else:
            heaps = Heaps(settings.topic_prefix)
            for letter in found:
                heaps.add(letter, marks)
            _list_heaps(heaps, limit, as_json)
        if log.unreadable:
            errors.print(f"{log.unreadable} records on dead-letters are no dead letters")


def _list_each(found: Iterable[Letter], marks: dict[str, str], limit: int, as_json: bool) -> None:
    table = Table("id", "written", "stage", "from", "model", "reason", "is")
    more = 0
    for letter in found:
        event = letter.event
        place = f"{event.topic}[{event.partition}]@{event.offset}"
        state = marks.get(letter.id, "open")
        if as_json:
            _json({"id": letter.id, "at_ms": letter.at_ms, "stage": event.stage, "topic": event.topic,
                   "partition": event.partition, "offset": event.offset, "model": letter.model,
                   "reason": event.reason, "state": state})  # fmt: skip
        elif table.row_count < limit:
            cells = (letter.id, _moment(letter.at_ms), event.stage, place, letter.model or "", event.reason)
            table.add_row(*(_safe(cell) for cell in cells), state)
        else:
            more += 1
    if not as_json:
        output.print(table if table.row_count else "no dead letters")
        if more:
            output.print(f"and {more} more: --limit, or filter")


def _list_heaps(heaps: Heaps, limit: int, as_json: bool) -> None:
    found = heaps.largest_first()
    if as_json:
        for heap in found:
            _json({"stage": heap.stage, "topic": heap.topic, "model": heap.model, "reason": heap.kind,
                   "count": heap.count, "dealt_with": heap.dealt_with, "first_ms": heap.first_ms,
                   "last_ms": heap.last_ms, "example": heap.example})  # fmt: skip
        return
    if not found:
        output.print("no dead letters")
        return
    table = Table("count", "dealt with", "stage", "topic", "model", "reason", "first", "last", "newest")
    for heap in found[:limit]:
        said = [_safe(cell) for cell in (heap.stage, heap.topic, heap.model or "", heap.kind)]
        times = (_moment(heap.first_ms), _moment(heap.last_ms))
        table.add_row(str(heap.count), str(heap.dealt_with), *said, *times, _safe(heap.example))
    output.print(table)
    if len(found) > limit:
        output.print(f"and {len(found) - limit} more rows: --limit, or filter")


def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    as_hex: Annotated[bool, typer.Option("--hex", help="The bytes as a hex dump.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Only the bytes, as they are.")] = False,
) -> None:
    """Show one: where it came from, why it was refused, what became of it, and its bytes."""
    with DeadLetterLog(Settings().connection()) as log:
        letter = log.one(letter_id)
        mark = log.marks().get(letter.id)
        try:
            key, value, headers = log.original(letter)
            missing = ""
        except LetterError as error:
            key, value, headers, missing = letter.key, letter.value, letter.headers, str(error)
    if raw:
        typer.echo(value or b"", nl=False)
        return
    event = letter.event
    became = "open" if mark is None else f"{mark.action} {_moment(mark.ts)} by {mark.by} {mark.why}".strip()
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
    _deal_with("replayed", ids, stage, topic, model, reason, since, until,
               everything=everything, again=dropped, dry_run=dry_run, why=why)  # fmt: skip


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
    """Mark them as dealt with: they are no longer listed or replayed. Nothing is deleted."""
    _deal_with("dropped", ids, stage, topic, model, reason, since, until,
               everything=everything, again=False, dry_run=dry_run, why=why)  # fmt: skip


def _deal_with(
    action: Action,
    ids: list[str] | None,
    stage: str | None,
    topic: str | None,
    model: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    *,
    everything: bool,
    again: bool,
    dry_run: bool,
    why: str,
) -> None:
    settings = Settings()
    wanted = _wanted(settings, tuple(ids or ()), stage, topic, model, reason, since, until)
    if wanted.everything and not everything:
        raise LetterError("which ones? Give ids or filters, or --all for every open dead letter")
    connection = settings.connection()
    if ids:
        _check_ids(ids, settings)
    dealt = deal_with(connection, action, wanted, by=person(), why=why, dry_run=dry_run, again=again)
    _tell(dealt, action, dry_run)
    if dealt.not_possible:
        raise typer.Exit(1)


def _check_ids(ids: list[str], settings: Settings) -> None:
    """Raises LetterError for an id that means none: a typing mistake must not look like success."""
    with DeadLetterLog(settings.connection()) as log:
        known = [letter.id for letter in log.letters(Wanted(ids=tuple(ids)))]
    for wanted in ids:
        if not any(name.startswith(wanted) for name in known):
            raise LetterError(
                f"no dead letter's id begins with {wanted!r}; list them with `driftloop dlq ls --each`"
            )


def _tell(dealt: Dealt, action: Action, dry_run: bool) -> None:
    does = f"would be {action}" if dry_run else action
    topics = ", ".join(f"{count} {topic}" for topic, count in sorted(dealt.by_topic.items()))
    output.print(f"{dealt.done} {does}{f' ({topics})' if topics else ''}", highlight=False, soft_wrap=True)
    if dealt.already:
        output.print(f"{dealt.already} were dealt with before and stay so", highlight=False)
    for reason, count in dealt.not_possible.items():
        errors.print(f"{count} cannot be {action}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _wanted(
    settings: Settings,
    ids: tuple[str, ...],
    stage: str | None,
    topic: str | None,
    model: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
) -> Wanted:
    if topic is not None:
        names = [known.name for known in CATALOGUE]
        if topic.removeprefix(settings.topic_prefix) not in names:
            raise LetterError(f"--topic {topic!r} is no topic of driftloop's: {', '.join(names)}")
    return Wanted(ids, stage, topic, model, reason, _time("--since", since), _time("--until", until))


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


def _json(line: dict[str, object]) -> None:
    typer.echo(orjson.dumps(line).decode())


def _moment(ts_ms: int) -> str:
    """UTC. A forged time that no calendar has is shown as the number that it is."""
    try:
        return datetime.fromtimestamp(ts_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(ts_ms)
