"""``python -m tests.late --trials 1000``. Exit status 0: so many were late, and none did any harm."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from driftloop.infra.broker.embedded import EmbeddedBroker

from tests.late.kinds import KINDS
from tests.late.run import KindResult, Trials
from tests.support.kafka.late_network import LateNetwork


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.late", description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000, help="late requests, over all kinds")
    parser.add_argument("--only", default="", help="kinds whose name has this text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the driftloop to try")
    parser.add_argument("--folder", type=Path, default=Path(".driftloop/late"))
    parser.add_argument("--out", type=Path, default=Path(".driftloop/bench/late.json"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    folder = given.folder.absolute()
    folder.mkdir(parents=True)
    kinds = [kind for kind in KINDS if given.only in kind.name]
    shares = sum(kind.share for kind in kinds)
    results: list[KindResult] = []
    with EmbeddedBroker(folder / "broker", heap_mb=384) as broker:
        for kind in kinds:
            with LateNetwork(broker.bootstrap_servers) as network:
                trials = Trials(broker.bootstrap_servers, network, kind, folder, given.python, given.seed)
                results.append(trials.run(max(1, round(given.trials * kind.share / shares))))
            print(time.strftime("%H:%M:%S"), json.dumps(line(results[-1])), flush=True)
    rows = [line(result) for result in results]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(rows, indent=1), "utf-8")
    return 0 if all(result.clean for result in results) else 1


def line(result: KindResult) -> dict[str, object]:
    damage = result.damage
    return {
        "kind": result.kind.name, "landed": result.landed, "missed": result.missed, "refused": result.refused,
        "lost": len(damage.lost), "twice": len(damage.twice), "torn": len(damage.torn),
        "trials with damage": result.damaged_trials, "exits": result.exits, "stuck": result.stuck,
        "seconds": round(result.seconds),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
