"""The demo's picture while it runs: redrawn on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .loop_view import LoopView

BARS = "▁▂▃▄▅▆▇█"
ROLLING = 5000
REFRESH_S = 0.25
SPARK_POINTS = 60


@dataclass(slots=True)
class Picture:
    """What is shown. The driver fills it, ``render`` draws it."""

    view: LoopView
    total_days: int
    day: int = 0
    date_ms: int = 0
    events: int = 0
    doing: str = "starting"
    served: str = ""
    right: deque[bool] = field(default_factory=lambda: deque[bool](maxlen=ROLLING))
    history: list[float] = field(default_factory=list[float])
    started: float = field(default_factory=time.monotonic)

    @property
    def accuracy(self) -> float | None:
        return sum(self.right) / len(self.right) if self.right else None

    def end_day(self) -> None:
        if self.accuracy is not None:
            self.history.append(self.accuracy)

    @property
    def rate(self) -> float:
        return self.events / max(time.monotonic() - self.started, 1e-9)


def sparkline(values: list[float], points: int = SPARK_POINTS) -> str:
    """Bars between the smallest and the largest value; neighbours are averaged down to ``points``."""
    if not values:
        return ""
    step = max(1, -(-len(values) // points))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in means)


def render(picture: Picture) -> Panel:
    """One panel: date, rate, accuracy, drift, runs, live version."""
    view = picture.view
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row("date", f"{shown_date(picture.date_ms)}   {picture.doing}")
    facts.add_row("events", f"{picture.events:,} at {picture.rate:,.0f}/s")
    if picture.accuracy is not None:
        shown = f"{picture.accuracy:.1%} of the last {len(picture.right):,}  "
        facts.add_row("accuracy", Text(shown).append(sparkline(picture.history), "cyan"))
    facts.add_row("drift", Text(listed(view.drift_by_kind()), "yellow") or "none yet")
    facts.add_row("runs", Text(listed(view.runs_by_status()), "magenta") or "none yet")
    live = f"version {view.version}  {picture.served}"
    facts.add_row("live", Text(live, "bold green") if view.version else "no version yet")
    bar = ProgressBar(total=picture.total_days, completed=picture.day, finished_style="green")
    title = "[bold white]driftloop demo: a year of flights from New York"
    return Panel(Group(facts, Text(), bar), title=title, border_style="grey42")


def listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def shown_date(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%d") if ts else ""


class Screen:
    """Draws a picture a few times a second; off a terminal, a line per month or new version."""

    def __init__(self, console: Console, picture: Picture) -> None:
        self._console = console
        self._picture = picture
        self._live = (
            Live(render(picture), console=console, auto_refresh=False) if console.is_terminal else None
        )
        self._drawn = 0.0
        self._reported: tuple[str, int] = ("", 0)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(render(self._picture), refresh=True)
            self._live.stop()

    def draw(self) -> None:
        """Redraw if it is time; call it as often as you like."""
        now = time.monotonic()
        if now - self._drawn < REFRESH_S:
            return
        self._drawn = now
        if self._live is not None:
            self._live.update(render(self._picture), refresh=True)
        else:
            self._report()

    def _report(self) -> None:
        picture = self._picture
        news = (shown_date(picture.date_ms)[:7], picture.view.version)
        if news == self._reported:
            return
        self._reported = news
        accuracy = "" if picture.accuracy is None else f", accuracy {picture.accuracy:.1%}"
        self._console.print(
            f"{shown_date(picture.date_ms)}: {picture.events:,} events, version {picture.view.version}"
            f"{accuracy}; drift: {listed(picture.view.drift_by_kind()) or 'none'}; "
            f"runs: {listed(picture.view.runs_by_status()) or 'none'}",
            highlight=False,
            soft_wrap=True,
        )
