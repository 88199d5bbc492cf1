"""Predictions and labels as a flight model would send them, written to the topics that joiners read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import orjson
from confluent_kafka import Producer
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from .cluster import model_names

APART = 1_000  # a label comes this many events after its prediction
_START = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """``features`` beyond five are numbers."""

    models: int = 1
    features: int = 5


def prediction_of(i: int, names: Sequence[str], features: int) -> bytes:
    values: dict[str, object] = {
        "carrier": f"C{i % 17}", "origin": f"O{i % 3}", "distance": 100.0 + i % 2_500,
        "hour": i % 24, "wind": (i % 70) / 2,
    }  # fmt: skip
    for extra in range(5, features):
        values[f"number_{extra}"] = (i * (extra + 1) % 1_000) / 8
    return orjson.dumps(
        {
            "model": names[i % len(names)],
            "prediction_id": f"flight-{i:012d}",
            "version": 3,
            "ts": _START + i,
            "features": values,
            "prediction": "late" if i % 3 else "on_time",
            "scores": {"late": 0.7, "on_time": 0.3},
            "latency_ms": 1.25,
            "role": "champion",
        }
    )


def label_of(i: int) -> bytes:
    label = "late" if i % 4 else "on_time"
    return orjson.dumps(
        {"prediction_id": f"flight-{i:012d}", "ts": _START + i + APART, "label": label, "source": "system"}
    )


def fill(connection: Connection, pairs: int, shape: Shape = Shape()) -> None:
    """``pairs`` predictions, each with its label ``APART`` events later."""
    names = model_names(shape.models)
    with Writer(connection) as write:
        for i in range(pairs + APART):
            if i < pairs:
                write(connection.topic(PREDICTIONS), i, prediction_of(i, names, shape.features))
            if i >= APART:
                write(connection.topic(LABELS), i - APART, label_of(i - APART))


def fill_in_order(connection: Connection, pairs: int) -> None:
    """As ``fill``, and every label is appended after its prediction, which some joins rely on."""
    names = model_names(1)
    with Writer(connection) as write:
        for start in range(0, pairs + APART, APART):
            for i in range(start, min(start + APART, pairs)):
                write(connection.topic(PREDICTIONS), i, prediction_of(i, names, 5))
            write.flush()
            for i in range(start - APART, min(start, pairs)):
                if i >= 0:
                    write(connection.topic(LABELS), i, label_of(i))


class Writer:
    """Produces records keyed by prediction_id; leaving the block means that all were acknowledged."""

    def __init__(self, connection: Connection) -> None:
        self._producer = Producer(connection.producer(linger_ms=20, queue_buffering_max_messages=1_000_000))
        self._written = 0

    def __enter__(self) -> Self:
        return self

    def __call__(self, topic: str, i: int, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(topic, value, f"flight-{i:012d}")
                break
            except BufferError:
                self._producer.poll(0.1)
        self._written += 1
        if self._written % 10_000 == 0:
            self._producer.poll(0)

    def flush(self) -> None:
        if self._producer.flush(120):
            raise SystemExit("the events could not be delivered")

    def __exit__(self, *_: object) -> None:
        self.flush()
