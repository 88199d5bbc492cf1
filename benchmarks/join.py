"""What joining costs per event, beside what only reading and parsing costs, in one run.

    python -m benchmarks.join [--pairs 200000] [--rounds 3]

Both are processes of their own on the same topics, run in turns; the figure is the CPU time of the
whole process (librdkafka's and RocksDB's threads included) from the first to the last record, per record.
The joiner runs as a user runs it: default settings, validation, placement, state, transactions, outcomes,
vitals. Prints a table and writes ``.driftloop/bench/join.json``; only ``ratio`` means anything on another
machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from driftloop.infra.apply import apply_deployment
from driftloop.infra.broker import EmbeddedBroker
from driftloop.infra.topics_admin import apply_topics
from driftloop.schemas.spec import Deployment, ModelSpec
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.connection import Connection
from driftloop.streams.join_shell import run_joiner
from driftloop.streams.join_tuning import JoinStats
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
OUT = ROOT / ".driftloop" / "bench" / "join.json"
PARTITIONS = 2
APART = 1_000  # a label comes this many events after its prediction
_EOF = -191


def fill(connection: Connection, pairs: int) -> None:
    """Pairs as a flight model would send them: five features, scores, latency; labels 1,000 events later."""
    producer = Producer(connection.producer(linger_ms=20, queue_buffering_max_messages=1_000_000))
    predictions, labels = connection.topic(PREDICTIONS), connection.topic(LABELS)
    start = 1_700_000_000_000
    for i in range(pairs + APART):
        if i < pairs:
            event: dict[str, object] = {
                "prediction_id": f"flight-{i:012d}",
                "model": "late",
                "version": 3,
                "ts": start + i,
                "features": {
                    "carrier": f"C{i % 17}", "origin": f"O{i % 3}", "distance": 100.0 + i % 2_500,
                    "hour": i % 24, "wind": (i % 70) / 2,
                },
                "prediction": "late" if i % 3 else "on_time",
                "scores": {"late": 0.7, "on_time": 0.3},
                "latency_ms": 1.25,
                "role": "champion",
            }  # fmt: skip
            producer.produce(predictions, orjson.dumps(event), f"flight-{i:012d}")
        if i >= APART:
            j = i - APART
            label = {
                "prediction_id": f"flight-{j:012d}", "ts": start + i, "label": "late" if j % 4 else "on_time",
            }  # fmt: skip
            producer.produce(labels, orjson.dumps(label | {"source": "system"}), f"flight-{j:012d}")
        if i % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the events could not be delivered")


def floor(connection: Connection, records: int) -> float:
    """CPU µs per record of consuming in batches and parsing, and nothing else."""
    consumer = Consumer(connection.consumer(f"floor-{uuid.uuid4().hex}"))
    names = [connection.topic(topic) for topic in (PREDICTIONS, LABELS)]
    consumer.assign([TopicPartition(name, p, 0) for name in names for p in range(PARTITIONS)])
    messages = consumer.consume(1, timeout=30)
    seen = 0
    began = time.process_time()
    while seen < records:
        for message in messages:
            if message.error() is None:
                orjson.loads(message.value())
                seen += 1
        messages = consumer.consume(10_000, timeout=0.1)
    used = time.process_time() - began
    consumer.close()
    return used / records * 1e6


def join(connection: Connection, records: int) -> tuple[float, float]:
    """CPU µs per record of the joiner, and its wall seconds."""
    stats, stop = JoinStats(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                run_joiner(connection, state_dir=Path(folder), instance_id="bench", stop=stop, stats=stats)
            except BaseException as error:  # reported by the thread that waits  # noqa: BLE001
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while stats.partitions == 0 and not errors:
            time.sleep(0.005)
        began, wall = time.process_time(), time.perf_counter()
        while stats.records < records and not errors:
            time.sleep(0.02)
        used, took = time.process_time() - began, time.perf_counter() - wall
        stop.set()
        thread.join()
        if errors:
            raise errors[0]
    return used / records * 1e6, took


def one(role: str, connection: Connection, records: int) -> dict[str, float]:
    if role == "floor":
        return {"us": floor(connection, records)}
    us, took = join(connection, records)
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"us": us, "took_s": took, "rss_mb": rss_mb}


def in_process(role: str, connection: Connection, records: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.join",
        "--role",
        role,
        "--bootstrap",
        connection.bootstrap_servers,
    ]
    done = subprocess.run(
        [*command, "--prefix", connection.prefix, "--records", str(records)],
        cwd=ROOT, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return orjson.loads(done.stdout.splitlines()[-1])


def measure(bootstrap_servers: str, pairs: int, rounds: int) -> dict[str, object]:
    floors: list[float] = []
    joins: list[dict[str, float]] = []
    for _ in range(rounds):
        connection = Connection(bootstrap_servers, f"bench-{uuid.uuid4().hex[:8]}.")
        apply_topics(connection, data_partitions=PARTITIONS, model_partitions=PARTITIONS)
        apply_deployment(connection, Deployment(models={"late": ModelSpec(classes=("late", "on_time"))}))
        fill(connection, pairs)
        floors.append(in_process("floor", connection, 2 * pairs)["us"])
        joins.append(in_process("join", connection, 2 * pairs))
        floors.append(in_process("floor", connection, 2 * pairs)["us"])
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
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def show(result: dict[str, object]) -> None:
    table = Table(
        "", "CPU µs per event", "ratio", title=f"{result['pairs']} pairs, {result['rounds']} rounds"
    )
    table.add_row("floor: consume and parse", str(result["floor_us"]), "1")
    table.add_row("join: as a user runs it", str(result["join_us"]), str(result["ratio"]))
    Console().print(table)
    Console().print(f"{result['outcomes_per_s']} outcomes/s, {result['rss_mb']} MB; {result['machine']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bootstrap", help="a cluster that runs; by default one is embedded")
    parser.add_argument("--role", choices=("floor", "join"), help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
    parser.add_argument("--records", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        measured = one(given.role, Connection(given.bootstrap, given.prefix), given.records)
        print(orjson.dumps(measured).decode())
        return
    if given.bootstrap:
        result = measure(given.bootstrap, given.pairs, given.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder), heap_mb=512) as broker:
            result = measure(broker.bootstrap_servers, given.pairs, given.rounds)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    show(result)


if __name__ == "__main__":
    main()
