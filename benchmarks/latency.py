"""How long a label takes: until its outcome can be read, and until the drift that it proves can be.

    python -m benchmarks.latency [--seconds 90] [--rate 1000] [--models 100]

``driftloop join`` and ``driftloop monitor`` as a user starts them, default settings, and ``rate`` events a
second (half predictions, half labels, each label a second after its prediction), a hundred models sharing
them. One model after the other begins to err. Times are of one clock, in one process that writes and
reads:

- outcome: from ``produce()`` of the label until a read_committed consumer has its outcome;
- drift: from ``produce()`` of the label on which ADWIN fired (the drift event names its index; all events
  of a model are on one partition, so that it is known which label that was) until a consumer has the
  event.

Legs of both are differences of append times. Writes ``.driftloop/bench/latency.json``.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import DRIFT, LABELS, OUTCOMES, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from .support.cluster import cluster, fresh, model_names
from .support.process import arguments, cpu_s, driftloop
from .support.results import show, write

PARTITIONS = 4  # as the settings' default
TARGET_MS = 250.0
_GOOD = 150  # labels of a model before the first one errs; the models take turns from there
_WARM_UP_S = 5.0
_SETTLING = 200  # pairs of the first model that show that the joiner has begun


@dataclass(frozen=True, slots=True)
class Pair:
    """The n-th pair of a model."""

    model: int
    index: int
    wrong: bool
    name: str


@dataclass
class SeenRecords:
    """What a reader has seen: (monotonic time, append time in ms, value)."""

    records: list[tuple[float, int, bytes]] = field(default_factory=list[tuple[float, int, bytes]])
    ready: threading.Event = field(default_factory=threading.Event)


def pairs_of(models: int, count: int) -> list[Pair]:
    """The models take turns; each has its ids on one partition, and errs from its own index on."""
    made: list[Pair] = []
    tried = 0
    for turn in range(count // models):
        for model in range(models):
            while partition_of(f"id-{tried:010d}", PARTITIONS) != model % PARTITIONS:
                tried += 1
            wrong = turn >= _GOOD + model % 50 and (turn + model) % 5 > 0
            made.append(Pair(model, turn, wrong, f"id-{tried:010d}"))
            tried += 1
    return made


def read(connection: Connection, topic: str, seen: SeenRecords, stop: threading.Event) -> None:
    consumer = Consumer(connection.consumer(f"latency-{topic}"))
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    while not stop.is_set():
        message = consumer.poll(0.2)
        now = time.monotonic()
        if message is None or message.error() is not None:
            seen.ready.set()
            continue
        seen.records.append((now, message.timestamp()[1], message.value() or b""))
    consumer.close()


def drive(
    connection: Connection, pairs: Sequence[Pair], names: Sequence[str], rate: float
) -> tuple[dict[str, float], float]:
    """Writes the pairs at ``rate`` events a second.

    When each label was produced, by the monotonic clock, and what to add for the time of day.
    """
    producer = Producer(connection.producer(linger_ms=0))
    predictions, labels = connection.topic(PREDICTIONS), connection.topic(LABELS)
    behind = round(rate / 2)  # a second
    produced: dict[str, float] = {}
    began = time.monotonic()
    for i in range(len(pairs) + behind):
        due = began + i * 2 / rate
        while (left := due - time.monotonic()) > 0:
            producer.poll(min(left, 0.005))
        now_ms = time.time_ns() // 1_000_000
        if i < len(pairs):
            pair = pairs[i]
            event = {
                "prediction_id": pair.name, "model": names[pair.model], "version": 3, "ts": now_ms,
                "features": {"carrier": f"C{i % 17}", "distance": 100.0 + i % 2_500, "hour": i % 24},
                "prediction": "late", "scores": {"late": 0.7, "on_time": 0.3}, "latency_ms": 1.25,
            }  # fmt: skip
            producer.produce(predictions, orjson.dumps(event), pair.name)
        if i >= behind:
            pair = pairs[i - behind]
            label = {"prediction_id": pair.name, "ts": now_ms, "label": "on_time" if pair.wrong else "late"}
            produced[pair.name] = time.monotonic()
            producer.produce(labels, orjson.dumps(label), pair.name)
        producer.poll(0)
    if producer.flush(30):
        raise SystemExit("the events could not be delivered")
    return produced, time.time() - time.monotonic()


def percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"n": 0}
    p50, p90, p99 = (round(float(np.percentile(values, p)), 1) for p in (50, 90, 99))
    return {"n": len(values), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": round(max(values), 1)}


def measure(bootstrap: str, seconds: float, rate: float, models: int) -> dict[str, Any]:
    connection = fresh(bootstrap, models=models, partitions=PARTITIONS)
    pairs, names = pairs_of(models, round(seconds * rate / 2)), model_names(models)
    stop, outcomes, drifts = threading.Event(), SeenRecords(), SeenRecords()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = {
            role: stack.enter_context(driftloop(role, connection, Path(folder)))
            for role in ("join", "monitor")
        }
        for topic, seen in ((OUTCOMES, outcomes), (DRIFT, drifts)):
            thread = threading.Thread(target=read, args=(connection, connection.topic(topic), seen, stop))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            seen.ready.wait()
        _settle(connection, outcomes, names)
        used = {role: cpu_s(process.pid) for role, process in processes.items()}
        began = time.monotonic()
        produced, offset = drive(connection, pairs, names, rate)
        took = time.monotonic() - began
        cpu = {role: round((cpu_s(p.pid) - used[role]) / took, 3) for role, p in processes.items()}
        _until_quiet(outcomes, len(pairs))
        _until_quiet(drifts, 1 << 60)
    return {
        "rate": rate, "seconds": seconds, "models": models, "cpu_share": cpu,
        **_outcome_times(outcomes, produced, offset), **_drift_times(drifts, pairs, produced, offset),
    }  # fmt: skip


def _settle(connection: Connection, outcomes: SeenRecords, names: Sequence[str]) -> None:
    """Both processes have started when a pair of every partition has come back."""
    first = [Pair(0, -1, False, f"first-{i}") for i in range(_SETTLING)]
    drive(connection, first, names, 1_000.0)
    deadline = time.monotonic() + 60
    while len(outcomes.records) < len(first):
        if time.monotonic() > deadline:
            raise SystemExit(f"only {len(outcomes.records)} of {len(first)} outcomes came")
        time.sleep(0.1)
    outcomes.records.clear()
    time.sleep(3)  # for the monitor, whose start nothing tells


def _until_quiet(seen: SeenRecords, expected: int) -> None:
    before, deadline = -1, time.monotonic() + 30
    while len(seen.records) < expected and len(seen.records) != before and time.monotonic() < deadline:
        before = len(seen.records)
        time.sleep(2)


def _outcome_times(seen: SeenRecords, produced: dict[str, float], offset: float) -> dict[str, Any]:
    from_start = min(produced.values()) + _WARM_UP_S
    whole: list[float] = []
    to_append: list[float] = []
    for at, append_ms, value in seen.records:
        name = orjson.loads(value)["prediction_id"]
        start = produced.get(name)
        if start is not None and start > from_start:
            whole.append((at - start) * 1_000)
            to_append.append(append_ms - (start + offset) * 1_000)
    return {"outcome": percentiles(whole), "outcome_appended": percentiles(to_append)}


def _drift_times(
    seen: SeenRecords, pairs: Sequence[Pair], produced: dict[str, float], offset: float
) -> dict[str, Any]:
    names = {(pair.model, pair.index): pair.name for pair in pairs}
    whole: list[float] = []
    to_append: list[float] = []
    from_batch: list[float] = []
    counted: set[str] = set()
    for at, append_ms, value in seen.records:
        drift = orjson.loads(value)
        fired = drift.get("evidence", {}).get("fired_at_index")
        if drift["detector"] != "adwin" or fired is None or drift["model"] in counted:
            continue
        counted.add(drift["model"])
        model = int(drift["model"].rpartition("-")[2]) if "-" in drift["model"] else 0
        index = fired - (_SETTLING if model == 0 else 0)  # the first model's outcomes while settling
        start = produced[names[model, index]]
        whole.append((at - start) * 1_000)
        to_append.append(append_ms - (start + offset) * 1_000)
        from_batch.append(append_ms - drift["caused_append_ms"])
    return {
        "drift": percentiles(whole),
        "drift_appended": percentiles(to_append),
        "batch_to_drift": percentiles(from_batch),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--models", type=int, default=100)
    given = parser.parse_args()
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.seconds, given.rate, given.models)
    write("latency", result)
    if result["drift"]["n"] < given.models // 2:
        print(f"only {result['drift']['n']} of {given.models} models drifted", file=sys.stderr)
    legs = {
        "outcome": "label produced → outcome visible",
        "outcome_appended": "  of it until the outcome is appended",
        "drift": "label that tips ADWIN → drift visible",
        "drift_appended": "  of it until the drift is appended",
        "batch_to_drift": "  of it from the batch's newest label on",
    }
    rows = [
        (title, *(result[leg].get(p, "") for p in ("n", "p50_ms", "p90_ms", "p99_ms", "max_ms")))
        for leg, title in legs.items()
    ]
    shares = ", ".join(f"{role} {share:.0%} of a core" for role, share in result["cpu_share"].items())
    show(
        f"{given.rate:g} events/s", ("", "n", "p50 ms", "p90 ms", "p99 ms", "max ms"), rows,
        f"aim: p99 ≤ {TARGET_MS:g} ms; {shares}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
