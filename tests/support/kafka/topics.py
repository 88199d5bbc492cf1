"""A test's own topics: made and deleted, written and read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from driftloop.infra.cluster.topics import apply_topics
from driftloop.infra.settings import Settings
from driftloop.schemas.topics import CATALOGUE, Topic
from driftloop.streams.kafka.connection import ConfigValue, Connection
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.kafka.record import Record

_DEADLINE_S = 300.0
Key = str | bytes | None


def new_settings(broker: str, folder: Path) -> Settings:
    """A new topic prefix, an empty state folder, no topics."""
    return Settings(
        bootstrap_servers=broker,
        topic_prefix=f"t{uuid.uuid4().hex[:8]}.",
        state_dir=folder / "state",
        config=folder / "driftloop.toml",
        data_partitions=2,
        model_partitions=2,
    )


@contextmanager
def own_topics(settings: Settings) -> Iterator[Connection]:
    """All topics of the catalogue; they are deleted afterwards."""
    connection = settings.connection()
    apply_topics(
        connection, data_partitions=settings.data_partitions, model_partitions=settings.model_partitions
    )
    yield connection
    admin = AdminClient(connection.client())
    present = admin.list_topics(timeout=30).topics
    names = [name for topic in CATALOGUE if (name := connection.topic(topic)) in present]
    for deleted in admin.delete_topics(names).values():
        deleted.result(30)


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
