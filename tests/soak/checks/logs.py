"""Reading a partition from its first record to its end, as any reader does: read_committed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from driftloop.schemas.topics import Topic
from driftloop.streams.kafka.connection import Connection

_DEADLINE_S = 120.0  # without any record
ORIGIN = "driftloop-origin"  # what the joiner writes on a record that it has sent on


class Line(NamedTuple):
    """One record. ``origin``: where it came from, of one that was sent on."""

    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes
    origin: str


def read(connection: Connection, topic: Topic, partition: int) -> Iterator[Line]:
    """Everything there is now. Raises KafkaException, and TimeoutError when nothing comes any more."""
    yield from read_topic(connection, connection.topic(topic), partition)


def read_topic(connection: Connection, topic: str, partition: int) -> Iterator[Line]:
    """The same of any topic, by its whole name."""
    consumer = Consumer(connection.consumer(f"soak-check-{uuid.uuid4().hex}"))
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        until = time.monotonic() + _DEADLINE_S
        while True:
            messages = consumer.consume(10_000, 0.05)
            if messages:
                until = time.monotonic() + _DEADLINE_S
            elif time.monotonic() > until:
                raise TimeoutError(f"{topic}[{partition}] cannot be read to its end")
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
                        return
                    if error.fatal():  # others pass, or nothing comes until the deadline
                        raise KafkaException(error)
                    continue
                headers = message.headers()
                origin = next((str(v, "ascii") for n, v in headers if n == ORIGIN), "") if headers else ""
                key, value = message.key(), message.value()
                yield Line(
                    partition,
                    message.offset() or 0,
                    message.timestamp()[1],
                    key,  # type: ignore[arg-type]
                    value or b"",  # type: ignore[arg-type]
                    origin,
                )
    finally:
        consumer.close()
