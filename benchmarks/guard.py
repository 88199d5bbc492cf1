"""Fail when joining costs more than a quarter more than it did, each measured against the floor of its run.

    python -m benchmarks.guard [--accept]

What is compared with ``benchmarks/guard.json`` is a ratio of CPU times: the joiner's process over one that
only reads and parses, run in turns, the least of each, since whatever else runs on the machine only ever
adds. Over the limit it is measured once more, and the better of both counts. ``--accept`` stores today's.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import orjson
from rich.console import Console

from .floor import floor_in_process
from .join import join_in_process
from .support.cluster import cluster, fresh
from .support.events import fill
from .support.process import arguments
from .support.results import write

KEPT = Path(__file__).with_name("guard.json")
TOLERATED = 1.25
PAIRS = 50_000
ROUNDS = 3


def ratio_now(bootstrap: str, pairs: int = PAIRS, rounds: int = ROUNDS) -> float:
    """The joiner's CPU per record over the floor's."""
    floors: list[float] = []
    joins: list[float] = []
    for _ in range(rounds):
        connection = fresh(bootstrap)
        fill(connection, pairs)
        floors.append(floor_in_process(connection, 2 * pairs)["us"])
        joins.append(join_in_process(connection, 2 * pairs)["us"])
        floors.append(floor_in_process(connection, 2 * pairs)["us"])
    return min(joins) / min(floors)


def is_regression(ratio: float, kept: float) -> bool:
    return ratio > TOLERATED * kept


def kept_ratio() -> float:
    return float(orjson.loads(KEPT.read_bytes())["ratio"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--accept", action="store_true", help="store today's ratio")
    given = parser.parse_args()
    console = Console(highlight=False)
    with cluster(given.bootstrap) as bootstrap:
        if given.accept:
            ratio = statistics.median(ratio_now(bootstrap) for _ in range(3))
            KEPT.write_bytes(orjson.dumps({"ratio": round(ratio, 2)}) + b"\n")
            console.print(f"kept: joining costs {ratio:.2f} times the floor (of {PAIRS} pairs)")
            return
        kept, ratio = kept_ratio(), ratio_now(bootstrap)
        if is_regression(ratio, kept):
            console.print(f"{ratio:.2f} times the floor, {kept:.2f} was kept: once more")
            ratio = min(ratio, ratio_now(bootstrap))
    write("guard", {"ratio": round(ratio, 2), "kept": kept, "over_kept": round(ratio / kept, 2)})
    console.print(f"joining costs {ratio:.2f} times the floor; kept is {kept:.2f}, {ratio / kept - 1:+.0%}")
    if is_regression(ratio, kept):
        raise SystemExit(
            f"joining costs {ratio / kept - 1:.0%} more than it did (tolerated: {TOLERATED - 1:.0%}). Find "
            "out why; if it is worth its cost, `make bench-guard-accept` and say why in the commit"
        )


if __name__ == "__main__":
    main()
