"""The joiner's books, as they were committed with its offsets: for ``status`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from ...streams.join.committed import position_of
from ...streams.join.state.books import Books
from ...streams.join.state.position import INPUTS
from ...streams.kafka.connection import Connection
from .lag import group_offsets


def read_books(connection: Connection) -> dict[int, Books]:
    """Return the books of each input partition that has any. Raises BrokerError if they cannot be read."""
    names = [connection.topic(topic) for topic in INPUTS]
    committed = group_offsets(AdminClient(connection.client()), connection.group("join"))
    found: dict[int, Books] = {}
    for number in sorted({number for _, number in committed}):
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
