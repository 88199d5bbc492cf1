"""Run many seeds on two processes: ``python -m tests.simulation --seeds 10000 [--first 1] [--seed 17]``.

``--seed`` runs one, and prints all that happened in it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

from tests.simulation.roles import ROLES, run_seed
from tests.simulation.run import SimulatedRun

SHARES = {"join": 0.6, "monitor": 0.2, "train": 0.2}
_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--role", choices=sorted(ROLES), default=None, help="default: all")
    parser.add_argument("--seeds", type=int, default=200, help="how many in all; three in five of the joiner")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, default=None, help="this one alone, with its trace")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    shares = SHARES if given.role is None else {given.role: 1.0}
    if given.seed is not None:
        return sum(_show(ROLES[role](given.seed, lines=True)) for role in shares)
    wrong = 0
    with multiprocessing.get_context("fork").Pool(given.processes) as pool:
        for role, share in shares.items():
            began, faults, found, results = time.monotonic(), Counter[str](), 0, 0
            seeds = range(given.first, given.first + math.ceil(given.seeds * share))
            for run in pool.imap(partial(run_seed, role), seeds, chunksize=16):
                faults.update(run.faults)
                results += run.results
                if run.findings:
                    found += 1
                    if found <= _SHOWN:
                        print(f"seed {run.seed} of {role}: {run.findings}", flush=True)
            took_s = time.monotonic() - began
            print(
                f"{role}: {len(seeds)} seeds, {results} results, {found} seeds with findings, "
                f"{took_s:.0f} s; {dict(faults)}"
            )
            wrong += found
    return min(wrong, 1)


def _show(run: SimulatedRun) -> int:
    print("\n".join(run.lines))
    print(f"seed {run.seed}: {run.findings}; fingerprint {run.fingerprint}")
    return int(bool(run.findings))


if __name__ == "__main__":
    sys.exit(main())
