"""How quickly a joiner is back: without its disk from the log, with a checkpoint, and after kill -9.

    python -m benchmarks.restore [--pending 500000] [--rounds 3] [--kills 5]

The aim is stated for ``--pending 10000000``. Pending predictions are filled in and processed; a checkpoint is
made when nine tenths of them are. Then, each in a process of its own and in turns with the floor
(``benchmarks.floor``) over the same records: a restore from the log alone, and one from the checkpoint. The
rate is that of CPU time, wall time beside it. Last, a joiner that keeps its disk is killed under light load,
and the time to the next outcome of each partition is taken. Writes ``.driftloop/bench/restore.json``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from driftloop.schemas.topics import LABELS, OUTCOMES, PREDICTIONS
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.shell import run_joiner
from driftloop.streams.join.stats import JoinStats
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader

from .floor import floor_in_process
from .support.cluster import PARTITIONS, cluster, fresh, model_names
from .support.events import Writer, label_of, prediction_of
from .support.process import arguments, driftloop, in_process, peak_rss_mb
from .support.results import show, write

_FEED_PER_S = 500
_KILL_AFTER_S = 3.0
_AGAIN_WITHIN_S = 60.0


@contextmanager
def joining(
    connection: Connection, folder: Path, store: str | None, tuning: JoinTuning | None = None
) -> Generator[JoinStats]:
    """A joiner in a thread of this process, and its counters."""
    stats, stop, errors = JoinStats(), threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            run_joiner(
                connection, state_dir=folder, instance_id="bench", stop=stop, store_url=store,
                tuning=tuning, stats=stats,
            )  # fmt: skip
        except BaseException as error:  # reported at the end of the block  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stats
    finally:
        stop.set()
        thread.join()
        if errors:
            raise errors[0]


def until(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)


def prepare(connection: Connection, records: int, store: str) -> dict[str, Any]:
    """Processes what is there and makes a checkpoint of it."""
    tuning = JoinTuning(checkpoint_interval_s=1.0)
    with tempfile.TemporaryDirectory() as folder, joining(connection, Path(folder), store, tuning) as stats:
        until(lambda: stats.records + stats.replayed >= records, 3_600, "joined")

        def covered() -> bool:
            return sum(one.offsets for one in list(stats.checkpoints.values())) >= records

        until(covered, 300, "checkpoints of all of it")
        made = list(stats.checkpoints.values())
    return {"stalled_ms": 1000 * max(one.stalled_s for one in made), "bytes": sum(one.size for one in made)}


def process(connection: Connection, records: int) -> dict[str, Any]:
    """Processes what came since, and leaves nothing behind but the committed offsets."""
    with tempfile.TemporaryDirectory() as folder, joining(connection, Path(folder), None) as stats:
        until(lambda: stats.records + stats.replayed >= records, 3_600, "joined")
    return {}


def restore(connection: Connection, store: str | None) -> dict[str, Any]:
    """A host without state: until every partition is live again."""
    with tempfile.TemporaryDirectory() as folder, joining(connection, Path(folder), store) as stats:
        until(lambda: stats.partitions > 0, 60, "partitions")
        began, wall = time.process_time(), time.perf_counter()
        until(
            lambda: (
                len(stats.restores) == PARTITIONS
                and all(one.took_s is not None for one in list(stats.restores.values()))
            ),
            3_600,
            "restored",
        )
        used, took = time.process_time() - began, time.perf_counter() - wall
        made = list(stats.restores.values())
    return {
        "records": sum(one.records for one in made),
        "fetched": sum(one.fetched for one in made),
        "sources": sorted({one.source for one in made}),
        "cpu_s": used,
        "took_s": took,
        "rss_mb": peak_rss_mb(),
    }


def recoveries(connection: Connection, first: int, kills: int) -> list[float]:
    """Seconds from kill -9 to the next outcome, per kill and partition; the disk is kept."""
    stop, fed = threading.Event(), threading.Thread()

    def feed() -> None:
        names, i = model_names(1), first
        with Writer(connection) as writer:
            while not stop.is_set():
                for _ in range(_FEED_PER_S // 20):
                    writer(connection.topic(PREDICTIONS), i, prediction_of(i, names, 5))
                    writer(connection.topic(LABELS), i, label_of(i))
                    i += 1
                writer.flush()
                stop.wait(0.05)

    reader = LogReader(connection, (OUTCOMES,))
    newest: dict[int, int] = {}

    def seen_since(moment_ms: int) -> bool:
        for record in reader.poll(0.05):
            newest.setdefault(record.partition, record.append_ms)
            if newest[record.partition] <= moment_ms < record.append_ms:
                newest[record.partition] = record.append_ms
        return len(newest) == PARTITIONS and all(at > moment_ms for at in newest.values())

    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fed = threading.Thread(target=feed)
        fed.start()
        try:
            moment_ms = 0
            for _ in range(kills + 1):
                with driftloop("join", connection, Path(folder)) as running:
                    until(lambda moment_ms=moment_ms: seen_since(moment_ms), _AGAIN_WITHIN_S, "outcomes")
                    if moment_ms:
                        found += [(at - moment_ms) / 1000 for at in newest.values()]
                    time.sleep(_KILL_AFTER_S)
                    running.kill()
                    moment_ms = time.time_ns() // 1_000_000
        finally:
            stop.set()
            fed.join()
            reader.close()
    return found


def fill_pending(connection: Connection, start: int, end: int) -> None:
    names = model_names(1)
    with Writer(connection) as writer:
        for i in range(start, end):
            writer(connection.topic(PREDICTIONS), i, prediction_of(i, names, 5))


def measure(bootstrap: str, pending: int, rounds: int, kills: int) -> dict[str, Any]:
    connection = fresh(bootstrap)
    before = pending * 9 // 10
    floors: list[dict[str, float]] = []
    logs: list[dict[str, Any]] = []
    checkpoints: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as store:
        fill_pending(connection, 0, before)
        made = in_process("benchmarks.restore", "prepare", connection, {"records": before, "store": store})
        fill_pending(connection, before, pending)
        in_process("benchmarks.restore", "process", connection, {"records": pending})
        for _ in range(rounds):
            floors.append(floor_in_process(connection, pending))
            logs.append(in_process("benchmarks.restore", "restore", connection))
            floors.append(floor_in_process(connection, pending))
            checkpoints.append(in_process("benchmarks.restore", "restore", connection, {"store": store}))
    kept = recoveries(connection, pending, kills) if kills else []
    for runs, source in ((logs, "log"), (checkpoints, "checkpoint")):
        if any(run["sources"] != [source] for run in runs):
            raise SystemExit(f"restored from something else than the {source}: {runs}")
    floor_us = statistics.median(run["us"] for run in floors)
    restore_us = statistics.median(1e6 * run["cpu_s"] / run["records"] for run in logs)
    took_s = statistics.median(run["took_s"] for run in logs)
    with_checkpoint_s = statistics.median(run["took_s"] for run in checkpoints)
    return {
        "pending": pending,
        "rounds": rounds,
        "floor_us": round(floor_us, 3),
        "restore_us": round(restore_us, 3),
        "share_of_floor": round(floor_us / restore_us, 2),
        "floor_per_s": round(pending / statistics.median(run["took_s"] for run in floors)),
        "restore_per_s": round(logs[0]["records"] / took_s),
        "log": {"records": logs[0]["records"], "took_s": round(took_s, 2), "rss_mb": logs[0]["rss_mb"]},
        "checkpoint": {
            "bytes": checkpoints[0]["fetched"],
            "records": checkpoints[0]["records"],
            "took_s": round(with_checkpoint_s, 2),
            "made_while_loop_stood_ms": round(made["stalled_ms"], 1),
        },
        "kept": {
            "kills": kills,
            "recovery_s": {
                "p50": round(statistics.median(kept), 2),
                "max": round(max(kept), 2),
                "all": [round(one, 2) for one in kept],
            },
        }
        if kept
        else None,
        "floors_us": [round(run["us"], 3) for run in floors],
        "restores_us": [round(1e6 * run["cpu_s"] / run["records"], 3) for run in logs],
    }


def table(result: dict[str, Any]) -> None:
    log, checkpoint, kept = result["log"], result["checkpoint"], result["kept"]
    rows = [
        ("floor: consume and parse", result["floor_us"], f"{result['floor_per_s']:,}", "", ""),
        ("disk deleted, from the log", result["restore_us"], f"{result['restore_per_s']:,}", log["took_s"],
         f"{result['share_of_floor']:.0%} of the floor's rate"),
        ("disk deleted, from a checkpoint", "", "", checkpoint["took_s"],
         f"{checkpoint['bytes'] / 1e6:.0f} MB, then {checkpoint['records']:,} records"),
    ]  # fmt: skip
    if kept:
        times = kept["recovery_s"]
        rows.append(
            ("disk kept, kill -9", "", "", times["p50"], f"median of {kept['kills']}; max {times['max']}")
        )
    show(
        f"{result['pending']:,} pending predictions, {result['rounds']} rounds",
        ("", "CPU µs per record", "records/s", "seconds", ""),
        rows,
        f"the loop stood {checkpoint['made_while_loop_stood_ms']} ms for a checkpoint",
    )


def main() -> None:
    parser = arguments(__doc__, "prepare", "process", "restore")
    parser.add_argument("--pending", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        connection = Connection(given.bootstrap, given.prefix)
        if given.role == "prepare":
            measured = prepare(connection, given.records, given.store)
        elif given.role == "process":
            measured = process(connection, given.records)
        else:
            measured = restore(connection, given.store)
        print(orjson.dumps(measured).decode())
        return
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.pending, given.rounds, given.kills)
    write("restore", result)
    table(result)


if __name__ == "__main__":
    main()
