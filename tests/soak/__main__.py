"""``python -m tests.soak --kills 200 --rate 20000 --seconds 1000 --seed 1``. Exit status 0: nothing found."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.soak.checks.findings import Findings
from tests.soak.run import Figures, soak
from tests.soak.stage import Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="faults, of all kinds")
    parser.add_argument("--rate", type=float, default=3_000.0, help="records a second")
    parser.add_argument("--seconds", type=float, default=None, help="of load; five a fault by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--horizon", type=float, default=60.0, help="how long, in s, predictions wait for labels"
    )
    parser.add_argument("--early", type=float, default=20.0, help="the same for labels")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--network", action="store_true", help="faults of network, clocks and disks too")
    parser.add_argument("--folder", type=Path, default=Path(".driftloop/soak"))
    parser.add_argument("--out", type=Path, default=Path(".driftloop/bench/soak.json"))
    given = parser.parse_args()
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {line}", flush=True)

    run = Run(
        folder=given.folder.absolute(),
        seed=given.seed,
        faults=given.kills,
        seconds=given.seconds if given.seconds is not None else 5.0 * given.kills,
        rate=given.rate,
        horizon_s=given.horizon,
        early_s=given.early,
        data_partitions=given.partitions,
        model_partitions=2,
        network=given.network,
    )
    figures, findings = soak(run, say)
    write_report(given.out, figures, findings)
    return 0 if findings.clean else 1


def write_report(out: Path, figures: Figures, findings: Findings) -> None:
    """Write the report and print it with the first examples of all that was found."""
    report = (
        findings.as_dict()
        | figures
        | {"classes": findings.by_class(), "clean": findings.clean, "examples": findings.examples}
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1), "utf-8")
    print(json.dumps({name: value for name, value in report.items() if name != "examples"}, indent=1))
    for kind, shown in findings.examples.items():
        print(f"\n{kind}: {findings.counts[kind]}")
        for example in shown:
            print(f"  {example}")


if __name__ == "__main__":
    sys.exit(main())
