"""What watching costs: one Faust worker fed with vitals, for 1, 100 and 1,000 models.

    python -m benchmarks.monitor [--outcomes 2000000]

The joiner joins real pairs; its vitals are the templates of the backlog that ``driftloop monitor``, as a
user starts it, then works off: fresh errors, offsets and seqs that go on. The figure is the CPU time of
the whole process per outcome. ``error_stream_us`` is what ADWIN, Page-Hinkley, the rolling accuracy and
the history of change points cost on the same errors by themselves; ``over_error_stream`` is how much more
the worker takes. ``cpu_at_100k``: the share of one core that 100,000 outcomes/s of one model take. Traffic
is varied by giving messages ten times fewer outcomes: what an outcome adds (``added_us``) is to be the
error stream alone.

Writes ``.driftloop/bench/monitor.json``.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Producer
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.topics import VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.monitor.detect.error_stream import ErrorStream
from driftloop.streams.monitor.observations import decode_record

from tests.support.monitor.progress import MonitorProgress
from tests.support.monitor.records import pack_errors

from .join import joiner
from .support.cluster import cluster, fresh
from .support.events import Shape, fill
from .support.process import arguments, cpu_s, driftloop, peak_rss_mb
from .support.results import show, write

MODELS = (1, 100, 1_000)
ERROR_RATE = 0.25
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Template:
    """A vitals message as the joiner wrote it."""

    partition: int
    message: dict[str, Any]


def templates(bootstrap: str, models: int, pairs: int = 40_000) -> list[Template]:
    """Vitals messages of whole batches."""
    connection = fresh(bootstrap, models=models)
    fill(connection, pairs, Shape(models=models))
    with joiner(connection) as running:
        running.wait_for(2 * pairs)
    with contextlib.closing(LogReader(connection, (VITALS,))) as reader:
        written = [
            Template(record.partition, orjson.loads(record.value))
            for record in reader.catch_up()
            if record.value is not None and record.value.startswith(b'{"vitals":')
        ]
    most = max(_outcomes(one.message) for one in written)
    return [one for one in written if _outcomes(one.message) > most // 2]


def _outcomes(message: dict[str, Any]) -> int:
    return sum(entry["errors"]["count"] for entry in message["models"] if "errors" in entry)


def backlog(found: Sequence[Template], outcomes: int, thin: int = 1) -> list[tuple[int, bytes, int]]:
    """(vitals partition, message, outcomes in it); an entry has a ``thin``-th of its template's outcomes."""
    rng = np.random.default_rng(1)
    seqs: dict[tuple[int, str], int] = {}
    made: list[tuple[int, bytes, int]] = []
    total = 0
    while total < outcomes:
        for template in found:
            message = orjson.loads(orjson.dumps(template.message))
            count = 0
            for entry in message["models"]:
                entry.pop("seqs", None)
                if "errors" not in entry:
                    continue
                size = max(1, entry["errors"]["count"] // thin)
                errors = pack_errors(rng.random(size) < ERROR_RATE)
                entry["errors"] = errors.model_dump(mode="json")
                place = (message["partition"], entry["model"])
                entry["first_seq"] = seqs.get(place, 0)
                entry["counts"]["outcomes"] = size
                seqs[place] = entry["first_seq"] + size
                count += size
            made.append((template.partition, orjson.dumps(message), count))
            total += count
    return made


def watch(bootstrap: str, models: int, messages: Sequence[tuple[int, bytes, int]]) -> dict[str, float]:
    """CPU µs per outcome and per message of a worker that works this off, and how quickly it does."""
    connection = fresh(bootstrap, models=models)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        worker = stack.enter_context(driftloop("monitor", connection, Path(folder)))
        progress = MonitorProgress(connection)
        stack.callback(progress.close)
        warm_up = max(4, len(messages) // 10)
        _produce(connection, messages[:warm_up])
        _until_applied(progress)
        began, wall = cpu_s(worker.pid), time.monotonic()
        _produce(connection, messages[warm_up:])
        _until_applied(progress)
        used, took = cpu_s(worker.pid) - began, time.monotonic() - wall
        outcomes = sum(count for *_, count in messages[warm_up:])
        return {
            "outcomes": outcomes,
            "messages": len(messages) - warm_up,
            "us": used / outcomes * 1e6,
            "message_us": used / (len(messages) - warm_up) * 1e6,
            "outcomes_per_s": outcomes / took,
            "rss_mb": peak_rss_mb(worker.pid),
        }


def _produce(connection: Connection, messages: Sequence[tuple[int, bytes, int]]) -> None:
    producer = Producer(connection.producer(linger_ms=5))
    for partition, value, _ in messages:
        producer.produce(connection.topic(VITALS), value, partition=partition)
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("vitals could not be delivered")


def _until_applied(progress: MonitorProgress) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while progress.behind():
        if time.monotonic() > deadline:
            raise SystemExit(f"the monitor is still {progress.behind()} messages behind")
        time.sleep(0.05)


def error_stream_us(messages: Sequence[tuple[int, bytes, int]]) -> float:
    """CPU µs per outcome of the detectors by themselves on these messages' errors."""
    spec = ModelSpec(classes=("late", "on_time"))
    observations = [
        one for _, value, _ in messages for one in decode_record(value) if not isinstance(one, str)
    ]
    streams: dict[str, ErrorStream] = {}
    began = time.process_time()
    outcomes = 0
    for observation in observations:
        stream = streams.get(observation.model)
        if stream is None:
            stream = streams[observation.model] = ErrorStream()
        stream.update(observation, spec, None)
        outcomes += len(observation.errors)
    return (time.process_time() - began) / outcomes * 1e6


def measure(bootstrap: str, outcomes: int) -> dict[str, Any]:
    points: list[dict[str, Any]] = []
    added_us = 0.0
    for models in MODELS:
        found = templates(bootstrap, models)
        messages = backlog(found, outcomes if models == 1 else outcomes // 8)
        seen = watch(bootstrap, models, messages)
        alone = error_stream_us(messages)
        entries = sum(value.count(b'"model":') for _, value, _ in messages) / len(messages)
        points.append(
            {"models": models, "error_stream_us": round(alone, 3), "entries_per_message": round(entries, 1)}
            | {name: round(value, 3) for name, value in seen.items()}
        )
        print(points[-1], file=sys.stderr)
        if models == 1:
            thin = watch(bootstrap, 1, backlog(found, outcomes // 10, thin=10))
            per_message = seen["outcomes"] / seen["messages"] - thin["outcomes"] / thin["messages"]
            added_us = (seen["message_us"] - thin["message_us"]) / per_message
    one, many = points[0], points[-1]
    return {
        "points": points,
        # What a model in a batch costs however few outcomes it has there.
        "entry_us": round(many["message_us"] / many["entries_per_message"], 1),
        "cpu_at_100k": round(one["us"] * 100_000 / 1e6, 3),
        "outcomes_per_s": round(one["outcomes_per_s"]),
        "over_error_stream": round(one["us"] / one["error_stream_us"], 2),
        "added_us": round(added_us, 3),
        "added_over_error_stream": round(added_us / one["error_stream_us"], 2),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--outcomes", type=int, default=2_000_000)
    given = parser.parse_args()
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.outcomes)
    write("monitor", result)
    columns = ("models", "CPU µs per outcome", "of it detectors", "CPU µs per message", "outcomes/s", "MB")
    rows = [
        (
            point["models"], point["us"], point["error_stream_us"], round(point["message_us"]),
            round(point["outcomes_per_s"]), round(point["rss_mb"]),
        )
        for point in result["points"]
    ]  # fmt: skip
    note = (
        f"100,000 outcomes/s of one model take {result['cpu_at_100k']:.0%} of a core; an outcome more in a "
        f"message {result['added_us']} µs, {result['added_over_error_stream']} × the detectors alone; "
        f"a model more in a message {result['entry_us']} µs"
    )
    show("one monitor", columns, rows, note)


if __name__ == "__main__":
    main()
