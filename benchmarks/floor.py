"""The floor: what reading both topics in batches and parsing each record costs, and nothing else.

    python -m benchmarks.floor [--pairs 200000] [--rounds 5]

librdkafka's batch consume and orjson, in a process of its own: the CPU time of the whole process, all threads
included, from the first record to the last, per record. Writes ``.driftloop/bench/floor.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid

import orjson
from confluent_kafka import Consumer, TopicPartition
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from .support.cluster import PARTITIONS, cluster, fresh
from .support.events import fill
from .support.process import arguments, in_process
from .support.results import show, write


def floor(connection: Connection, records: int, partitions: int = PARTITIONS) -> dict[str, float]:
    """``us``: CPU µs per record; ``took_s``: wall time of all."""
    consumer = Consumer(connection.consumer(f"floor-{uuid.uuid4().hex}"))
    names = [connection.topic(topic) for topic in (PREDICTIONS, LABELS)]
    consumer.assign([TopicPartition(name, p, 0) for name in names for p in range(partitions)])
    messages = consumer.consume(1, timeout=30)
    seen = 0
    began, wall = time.process_time(), time.perf_counter()
    while seen < records:
        for message in messages:
            if message.error() is None:
                orjson.loads(message.value())
                seen += 1
        messages = consumer.consume(10_000, timeout=0.1)
    used, took = time.process_time() - began, time.perf_counter() - wall
    consumer.close()
    return {"us": used / records * 1e6, "took_s": took}


def floor_in_process(connection: Connection, records: int, partitions: int = PARTITIONS) -> dict[str, float]:
    return in_process("benchmarks.floor", "floor", connection, {"records": records, "partitions": partitions})


def main() -> None:
    parser = arguments(__doc__, "floor")
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        measured = floor(Connection(given.bootstrap, given.prefix), given.records, given.partitions)
        print(orjson.dumps(measured).decode())
        return
    with cluster(given.bootstrap) as bootstrap:
        connection = fresh(bootstrap)
        fill(connection, given.pairs)
        runs = [floor_in_process(connection, 2 * given.pairs) for _ in range(given.rounds)]
    us = statistics.median(run["us"] for run in runs)
    rate = 2 * given.pairs / statistics.median(run["took_s"] for run in runs)
    write(
        "floor",
        {
            "pairs": given.pairs,
            "rounds": given.rounds,
            "floor_us": round(us, 3),
            "records_per_s": round(rate),
            "floors_us": [round(run["us"], 3) for run in runs],
        },
    )
    show(
        f"{2 * given.pairs} records, {given.rounds} rounds",
        ("", "CPU µs per event", "events/s"),
        [("floor: consume and parse", f"{us:.2f}", f"{rate:,.0f}")],
    )


if __name__ == "__main__":
    main()
