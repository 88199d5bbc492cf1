"""``python -m tests.outage --seconds 300``. Exit status 0: every count that must be 0 is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.outage.check import MUST_BE_ZERO, found
from tests.outage.run import outage
from tests.soak.stage import Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="without Kafka")
    parser.add_argument("--before", type=float, default=30.0, help="seconds of traffic before it")
    parser.add_argument(
        "--rate", type=float, default=50.0, help="at most so many predictions a second, each server"
    )
    parser.add_argument("--folder", type=Path, default=Path(".driftloop/outage"))
    parser.add_argument("--out", type=Path, default=Path(".driftloop/bench/outage.json"))
    given = parser.parse_args()
    console = Console()
    figures = outage(
        outage_run(given.folder.absolute(), given.seconds, given.rate), given.before, console.print
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=1), "utf-8")
    table = Table("figure", "value", title=f"{given.seconds:g} s without Kafka")
    for name, value in figures.items():
        wrong = name in MUST_BE_ZERO and value != 0
        table.add_row(name, str(value), style="red" if wrong else None)
    console.print(table)
    return 1 if found(figures) else 0


def outage_run(folder: Path, seconds: float, rate: float) -> Run:
    """Horizons far beyond the outage: what is joined must not depend on how long it was."""
    return Run(
        folder=folder, seed=1, faults=0, seconds=seconds, rate=rate, horizon_s=3_600, early_s=600,
        data_partitions=2, model_partitions=2,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
