"""The joiner's books, as they were committed with its offsets: for ``status`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from ...schemas.errors import BrokerError
from ...schemas.topics import LABELS, PREDICTIONS
from ...streams.join.committed import position_of
from ...streams.join.state.books import Books
from ...streams.kafka.connection import Connection
from .lag import group_offsets

_TIMEOUT_S = 15.0


def read_books(connection: Connection) -> dict[int, Books]:
    """Return the books of each input partition that has any. Raises BrokerError if they cannot be read."""
    admin = AdminClient(connection.client())
    names = [connection.topic(topic) for topic in (PREDICTIONS, LABELS)]
    try:
        topics = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise BrokerError(f"no Kafka at {connection.bootstrap_servers}: {error.args[0]}") from error
    known = {name: sorted(topics[name].partitions) for name in names if name in topics}
    places = [TopicPartition(name, number) for name, numbers in known.items() for number in numbers]
    committed = group_offsets(admin, connection.group("join"), places) if places else {}
    found: dict[int, Books] = {}
    for number in sorted({one.partition for one in places}):
        both = [committed.get((name, number), TopicPartition(name, number, -1)) for name in names]
        position = position_of(*both)
        if position is not None and position.books is not None:
            found[number] = position.books
    return found


def total_of(books: Mapping[int, Books]) -> Books:
    """Return the sum over all partitions."""
    total = Books()
    for one in books.values():
        total = total.plus(one)
    return total


def unbalanced(books: Mapping[int, Books]) -> dict[int, Books]:
    """Return those of the partitions whose books do not balance."""
    return {number: one for number, one in books.items() if any(one.difference)}
