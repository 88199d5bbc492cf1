"""Where the joiner's CPU time goes: by step of its loop and by thread, beside the floor.

    python -m benchmarks.join_profile [--pairs 200000] [--rounds 3]

The joiner of ``benchmarks.join``, its steps wrapped by clocks of the thread that runs them. What other
threads use is librdkafka's and RocksDB's. Prints a table and writes ``.driftloop/bench/join_profile.json``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import orjson
from driftloop.streams.join import shell as join_shell
from driftloop.streams.join.batch_writer import BatchWriter
from driftloop.streams.join.core import Joiner
from driftloop.streams.join.partition import AssignedPartition
from driftloop.streams.kafka.connection import Connection

from .floor import floor_in_process
from .join import joiner
from .support.cluster import cluster, fresh
from .support.events import fill
from .support.process import arguments, in_process
from .support.results import show, write

P = ParamSpec("P")
R = TypeVar("R")

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# In the order of a batch: what it is, and the method that does it.
STEPS: tuple[tuple[str, type, str], ...] = (
    ("fetch: librdkafka's messages become objects", join_shell._JoinShell, "_fetch"),  # pyright: ignore[reportPrivateUsage]
    ("read: parse, validate, place, cut prefixes", AssignedPartition, "read"),
    ("match: state, outcomes, vitals", AssignedPartition, "process"),
    ("produce: outcomes and vitals into librdkafka", BatchWriter, "_send"),
    ("commit: what was staged is kept", Joiner, "commit"),
    ("write behind: encode, RocksDB", AssignedPartition, "flush"),
)


def _timed(call: Callable[P, R], spent: dict[str, float], name: str) -> Callable[P, R]:
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        began = time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            spent[name] += time.thread_time() - began

    return timed


def _by_thread() -> dict[str, float]:
    """CPU seconds so far of this process's threads, by name."""
    used: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        head, _, rest = (task / "stat").read_text().rpartition(")")
        fields = rest.split()
        name = head.partition("(")[2].split(":")[0]
        used[name] = used.get(name, 0.0) + (int(fields[11]) + int(fields[12])) * _TICK_S
    return used


def profile(connection: Connection, records: int) -> dict[str, float]:
    """CPU µs per record of each step, of the rest of its thread, and of the other threads."""
    spent = dict.fromkeys([name for name, _, _ in STEPS], 0.0)
    for name, owner, method in STEPS:
        setattr(owner, method, _timed(getattr(owner, method), spent, name))
    with joiner(connection) as running:
        before, began = _by_thread(), time.process_time()
        spent.update(dict.fromkeys(spent, 0.0))
        running.wait_for(records)
        used, after = time.process_time() - began, _by_thread()
    rdkafka = sum(after[name] - before.get(name, 0.0) for name in after if name.startswith("rdk"))
    figures = {name: seconds / records * 1e6 for name, seconds in spent.items()}
    figures["librdkafka's threads: fetch, decompress, compress, send"] = rdkafka / records * 1e6
    figures["the rest: the loop, transactions, RocksDB's threads"] = used / records * 1e6 - sum(
        figures.values()
    )
    return figures | {"in all": used / records * 1e6}


def measure(bootstrap: str, pairs: int, rounds: int) -> dict[str, Any]:
    runs: list[dict[str, float]] = []
    floors: list[float] = []
    for _ in range(rounds):
        connection = fresh(bootstrap)
        fill(connection, pairs)
        floors.append(floor_in_process(connection, 2 * pairs)["us"])
        runs.append(in_process("benchmarks.join_profile", "profile", connection, {"records": 2 * pairs}))
    floor_us = statistics.median(floors)
    return {
        "pairs": pairs,
        "rounds": rounds,
        "floor_us": round(floor_us, 3),
        "us": {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]},
    }


def main() -> None:
    parser = arguments(__doc__, "profile")
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.role:
        print(orjson.dumps(profile(Connection(given.bootstrap, given.prefix), given.records)).decode())
        return
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.pairs, given.rounds)
    write("join_profile", result)
    floor_us = result["floor_us"]
    show(
        f"{given.pairs} pairs, {given.rounds} rounds",
        ("", "CPU µs per event", "floors"),
        [(name, f"{us:.2f}", f"{us / floor_us:.2f}") for name, us in result["us"].items()],
        f"the floor is {floor_us:.2f} µs",
    )


if __name__ == "__main__":
    main()
