"""``driftloop status``: the state of everything on one screen."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...schemas.joining import JoinProgress
from ...streams.join.state.books import Books
from ...streams.kafka.connection import Connection
from ..cluster.books import read_books, total_of, unbalanced
from ..cluster.lag import Lag, read_lag
from ..cluster.members import read_members
from ..settings import Settings
from ..status.join_status import read_join_progress, shown_progress
from ..status.overview import ModelView, Overview, read_overview
from .console import output
from .kafka import reached
from .models import shown_run, shown_time, shown_version

_JOIN_STYLES = {"data_loss": "bold red", "restoring": "yellow"}
ACK_FRESH_MS = 180_000  # acknowledgements are refreshed each minute; three missed ones mean a server is gone


def status(watch: bool = typer.Option(False, "--watch", "-w", help="Refresh every 2 seconds.")) -> None:
    """Models, versions, accuracy, drift, runs, servers, lag and dead letters."""
    connection = reached(Settings())
    if not watch:
        output.print(_rendered(connection))
        return
    with Live(console=output, auto_refresh=False) as live:
        while True:
            live.update(_rendered(connection), refresh=True)
            time.sleep(2)


def _rendered(connection: Connection) -> Group:
    overview, lags, joins = read_overview(connection), read_lag(connection), read_join_progress(connection)
    running = read_members(connection)
    now_ms = time.time_ns() // 1_000_000
    return render(overview, lags, joins, read_books(connection), running, now_ms=now_ms)


def render(
    overview: Overview,
    lags: list[Lag],
    joins: Mapping[int, JoinProgress],
    books: Mapping[int, Books],
    running: Mapping[str, int],
    *,
    now_ms: int,
) -> Group:
    """Everything on one screen. ``running``: how many processes of each role read."""
    parts = (
        _models(overview, now_ms),
        _joins(joins, running["join"], now_ms),
        _books(books),
        _lags(lags, running),
        _misrouted(overview),
        _dead_letters(overview),
    )
    return Group(*parts)


def _models(overview: Overview, now_ms: int) -> Table:
    table = Table(title="models", title_justify="left")
    for column in ("model", "live", "accuracy", "last drift", "last run", "servers"):
        table.add_column(column)
    for name, view in sorted(overview.models.items()):
        table.add_row(
            name, shown_version(view), _accuracy(view), _drift(view), shown_run(view), _servers(view, now_ms)
        )
    if not overview.models:
        table.add_row("none yet: publish driftloop.toml with `driftloop apply`")
    return table


def _accuracy(view: ModelView) -> str:
    return "" if view.accuracy is None else f"{view.accuracy:.1%} of {len(view.errors)}"


def _drift(view: ModelView) -> str:
    drift = view.last_drift
    if drift is None:
        return "none seen"
    what = f"{drift.kind} of {drift.subject} v{drift.version} ({drift.detector})"
    return f"{drift.severity}: {what}, {shown_time(drift.ts)}"


def _servers(view: ModelView, now_ms: int) -> str:
    lines: list[str] = []
    for server, ack in sorted(view.acks.items()):
        age = "" if now_ms - ack.ts < ACK_FRESH_MS else " (silent since " + shown_time(ack.ts) + ")"
        lines.append(f"{server}: {ack.status} v{ack.version} {ack.reason}".rstrip() + age)
    return "\n".join(lines) or "none"


def _lags(lags: list[Lag], running: Mapping[str, int]) -> Table:
    behind: dict[tuple[str, str], list[Lag]] = defaultdict(list)
    for lag in lags:
        behind[(lag.group, lag.topic)].append(lag)
    columns = ("role", "running", "topic", "partitions", "behind (offsets)")
    table = Table(*columns, title="lag", title_justify="left")
    for (group, topic), parts in sorted(behind.items()):
        never = " (never started)" if all(part.committed is None for part in parts) else ""
        behind_by = f"{sum(part.behind for part in parts)}{never}"
        style = None if running[group] else "yellow"
        table.add_row(group, str(running[group]), topic, str(len(parts)), behind_by, style=style)
    return table


def _joins(joins: Mapping[int, JoinProgress], running: int, now_ms: int) -> Table:
    table = Table("partition", "joiner", "state", title="join", title_justify="left")
    for number, progress in sorted(joins.items()):
        state, style = shown_progress(progress, now_ms=now_ms), _JOIN_STYLES.get(progress.phase)
        if not running:
            state, style = f"no joiner runs; last: {state}", "bold red"
        table.add_row(str(number), progress.instance, state, style=style)
    return table


def _books(books: Mapping[int, Books]) -> Text:
    total = total_of(books)
    text = Text(f"predictions: {total.predictions}\nlabels: {total.labels}")
    for number, wrong in unbalanced(books).items():
        text.append(
            f"\nthe books of partition {number} do not balance: {wrong} (`driftloop doctor`)", "bold red"
        )
    return text


def _misrouted(overview: Overview) -> Text:
    if not overview.misrouted:
        return Text("misrouted: none")
    return Text(
        f"misrouted: {overview.misrouted} recently, sent on to their partition; a producer does not "
        "partition by murmur2 of prediction_id (docs/operations.md)",
        "yellow",
    )


def _dead_letters(overview: Overview) -> Text:
    if not overview.dead_letters:
        return Text("dead letters: none")
    return Text(
        f"dead letters: {overview.dead_letters} recently; newest: {overview.last_dead_letter}", "yellow"
    )
