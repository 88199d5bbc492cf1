"""Writing records to topics, and reading them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from confluent_kafka import Producer
from driftloop.schemas.topics import Topic
from driftloop.streams.kafka.connection import ConfigValue, Connection
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.kafka.record import Record

_DEADLINE_S = 300.0
Key = str | bytes | None


def write(
    connection: Connection,
    *records: tuple[Topic, Key, bytes | None],
    headers: Sequence[tuple[str, bytes | None]] = (),
    **settings: ConfigValue,
) -> None:
    """Write the records, each a topic, a key and a value; they have arrived when this returns."""
    producer = Producer(connection.producer(**settings))
    for topic, key, value in records:
        producer.produce(connection.topic(topic), value, key, headers=[*headers])
    assert producer.flush(60) == 0


def read_topic(connection: Connection, *topics: Topic) -> Iterator[Record]:
    """Everything on the topics, to their present end, as a read_committed reader sees it."""
    with closing(LogReader(connection, topics)) as reader:
        yield from reader.catch_up(_DEADLINE_S)
