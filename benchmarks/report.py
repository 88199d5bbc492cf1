"""Every ratio beside its target, from what the benchmarks wrote last.

    python -m benchmarks.report [--page]

Reads ``.driftloop/bench/*.json`` and prints one table; ``--page`` also puts it between the bench marks of
docs/performance.md. A result of another day or machine is shown as such: each row names when it was taken.
"""

from __future__ import annotations

import argparse
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from .support.process import ROOT
from .support.results import console, read

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench: python -m benchmarks.report --page -->", "<!-- /bench -->"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to be; ``path`` leads to it in the benchmark's JSON."""

    title: str
    benchmark: str
    path: str
    sense: str  # "≤" or "≥"
    limit: float
    unit: str = "×"

    def meets(self, value: float) -> bool:
        compare: Callable[[float, float], bool] = operator.le if self.sense == "≤" else operator.ge
        return compare(value, self.limit)


TARGETS = (
    Target("join: CPU per event, over the floor (consume and parse)", "join", "ratio", "≤", 3),
    Target("Faust, the same job, over driftloop", "peers", "peers.faust.ratio", "≥", 25),
    Target("Quix Streams, the same job, over driftloop", "peers", "peers.quix.ratio", "≥", 7),
    Target("Bytewax, the same job, over driftloop", "peers", "peers.bytewax.ratio", "≥", 4),
    Target(
        "Kafka Streams exactly once, the same job, over driftloop",
        "peers", "peers.kafka-streams.ratio", "≥", 3,
    ),
    Target("an event with 10 million predictions pending, over 100,000", "scale", "pending_ratio", "≤", 1.3),
    Target("memory of the joiner then", "scale", "peak_rss_mb", "≤", 1024, "MB"),
    Target("an event among 1,000 models, over one model", "scale", "models_ratio", "≤", 1.5),
    Target("growth with 100 features, over parsing's growth", "scale", "features_ratio", "≤", 1.2),
    Target("restoring pending predictions: rate, of the floor's", "restore", "share_of_floor", "≥", 0.5),
    Target("1 % malformed events: CPU per event, over none", "poison", "ratio", "≤", 1.1),
    Target("label → outcome visible, 1,000 events/s, p99", "latency", "outcome.p99_ms", "≤", 250, "ms"),
    Target("label that tips ADWIN → drift visible, p99", "latency", "drift.p99_ms", "≤", 250, "ms"),
    Target("monitor: a core's share for 100,000 outcomes/s of one model", "monitor", "cpu_at_100k", "≤", 0.5),
    Target(
        "monitor: what one more outcome adds, over the detectors alone",
        "monitor", "added_over_error_stream", "≤", 1.2,
    ),
    Target("trigger → live everywhere, less learning, p99", "loop_time", "rest_p99_ms", "≤", 500, "ms"),
    Target("hot swap under load: requests failed", "swap", "failed", "≤", 0, ""),
    Target("hot swap under load: p99, over none", "swap", "p99_ratio", "≤", 1.1),
    Target("HotModel adds to a prediction", "emit", "hot_model_us", "≤", 5, "µs"),
    Target("emitting a prediction costs its caller", "emit", "emit_us", "≤", 10, "µs"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A target and what was measured; ``value`` None: it was not."""

    target: Target
    value: float | None
    at: str
    machine: str
    why: str = ""

    @property
    def result(self) -> str:
        if self.value is None:
            return self.why or "not measured"
        return "met" if self.target.meets(self.value) else "not met"

    def shown(self) -> str:
        return "" if self.value is None else f"{self.value:g} {self.target.unit}".strip()

    def wanted(self) -> str:
        return f"{self.target.sense} {self.target.limit:g} {self.target.unit}".strip()


def rows() -> list[Row]:
    return [_row(target, read(target.benchmark)) for target in TARGETS]


def _row(target: Target, result: dict[str, Any] | None) -> Row:
    if result is None:
        return Row(target, None, "", "")
    value: Any = result
    why = ""
    for step in target.path.split("."):
        why = value.get("missing", "") if isinstance(value, dict) else ""
        value = value.get(step) if isinstance(value, dict) else None
    number = float(value) if isinstance(value, int | float) else None
    return Row(target, number, str(result.get("at", "")), str(result.get("machine", "")), why)


def markdown(found: list[Row]) -> str:
    lines = ["| | measured | target | |", "|---|---|---|---|"]
    lines += [f"| {row.target.title} | {row.shown()} | {row.wanted()} | {row.result} |" for row in found]
    machines = sorted({row.machine for row in found if row.machine})
    days = sorted({row.at[:10] for row in found if row.at})
    taken = f"Taken on {', '.join(days)}: {'; '.join(machines)}." if days else "Not measured yet."
    return "\n".join([*lines, "", taken])


def into_page(text: str, table: str) -> str:
    """Return the page with the table between its marks. Raise SystemExit if it has no marks."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"docs/performance.md has no {BEGIN} … {END}")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--page", action="store_true", help="put the table into docs/performance.md")
    given = parser.parse_args()
    found = rows()
    table = Table("", "measured", "target", "", "taken", title="driftloop's ratios against their targets")
    for row in found:
        colour = {"met": "green", "not met": "red"}.get(row.result, "yellow")
        result = f"[{colour}]{row.result}[/]"
        table.add_row(row.target.title, row.shown(), row.wanted(), result, row.at[:16])
    console().print(table)
    if given.page:
        PAGE.write_text(into_page(PAGE.read_text("utf-8"), markdown(found)), "utf-8")


if __name__ == "__main__":
    main()
