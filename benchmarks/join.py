"""What joining costs per event, beside what only reading and parsing costs, in one run.

    python -m benchmarks.join [--pairs 200000] [--rounds 3]

Both are processes of their own on the same topics, run in turns; the figure is the CPU time of the
whole process (librdkafka's and RocksDB's threads included) from the first to the last record, per record.
The joiner runs as a user runs it: default settings, validation, placement, state, transactions, outcomes,
vitals. Prints a table and writes ``.driftloop/bench/join.json``; only ``ratio`` means anything on another
machine.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from driftloop.streams.join.shell import run_joiner
from driftloop.streams.join.stats import JoinStats
from driftloop.streams.kafka.connection import Connection

from .floor import floor_in_process
from .support.cluster import cluster, fresh
from .support.events import fill
from .support.process import arguments, in_process, peak_rss_mb
from .support.results import show, write


@dataclass
class RunningJoiner:
    """A joiner in a thread of this process."""

    stats: JoinStats = field(default_factory=JoinStats)
    errors: list[BaseException] = field(default_factory=list[BaseException])

    def wait_for(self, records: int) -> None:
        while self.stats.records < records:
            if self.errors:
                raise self.errors[0]
            time.sleep(0.02)


@contextmanager
def joiner(connection: Connection, state: Path | None = None) -> Generator[RunningJoiner]:
    """A joiner with default settings that has its partitions. ``state``: its folder, else a temporary one."""
    running, stop = RunningJoiner(), threading.Event()
    with tempfile.TemporaryDirectory() as temporary:
        folder = state or Path(temporary)

        def run() -> None:
            try:
                run_joiner(connection, state_dir=folder, instance_id="bench", stop=stop, stats=running.stats)
            except BaseException as error:  # reported by the thread that waits  # noqa: BLE001
                running.errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while running.stats.partitions == 0 and not running.errors:
                time.sleep(0.005)
            yield running
        finally:
            stop.set()
            thread.join()
    if running.errors:
        raise running.errors[0]


def join(connection: Connection, records: int) -> dict[str, float]:
    """``us``: CPU µs per record of the joiner; ``took_s``: its wall time."""
    with joiner(connection) as running:
        began, wall = time.process_time(), time.perf_counter()
        running.wait_for(records)
        used, took = time.process_time() - began, time.perf_counter() - wall
    return {"us": used / records * 1e6, "took_s": took, "rss_mb": peak_rss_mb()}


def join_in_process(connection: Connection, records: int) -> dict[str, float]:
    return in_process("benchmarks.join", "join", connection, {"records": records})


def measure(bootstrap_servers: str, pairs: int, rounds: int) -> dict[str, Any]:
    floors: list[float] = []
    joins: list[dict[str, float]] = []
    for _ in range(rounds):
        connection = fresh(bootstrap_servers)
        fill(connection, pairs)
        floors.append(floor_in_process(connection, 2 * pairs)["us"])
        joins.append(join_in_process(connection, 2 * pairs))
        floors.append(floor_in_process(connection, 2 * pairs)["us"])
    floor_us = statistics.median(floors)
    join_us = statistics.median(one["us"] for one in joins)
    return {
        "pairs": pairs,
        "rounds": rounds,
        "floor_us": round(floor_us, 3),
        "join_us": round(join_us, 3),
        "ratio": round(join_us / floor_us, 2),
        "outcomes_per_s": round(pairs / statistics.median(one["took_s"] for one in joins)),
        "rss_mb": round(max(one["rss_mb"] for one in joins)),
        "floors_us": [round(us, 3) for us in floors],
        "joins_us": [round(one["us"], 3) for one in joins],
    }


def main() -> None:
    parser = arguments(__doc__, "join")
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.role:
        print(orjson.dumps(join(Connection(given.bootstrap, given.prefix), given.records)).decode())
        return
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.pairs, given.rounds)
    write("join", result)
    show(
        f"{result['pairs']} pairs, {result['rounds']} rounds",
        ("", "CPU µs per event", "ratio"),
        [
            ("floor: consume and parse", result["floor_us"], 1),
            ("join: as a user runs it", result["join_us"], result["ratio"]),
        ],
        f"{result['outcomes_per_s']} outcomes/s, {result['rss_mb']} MB",
    )


if __name__ == "__main__":
    main()
