"""How many processes of each role read: the members of its group."""

from __future__ import annotations

from concurrent.futures import Future
from typing import cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from ...schemas.errors import BrokerError
from ...streams.kafka.connection import Connection
from .lag import GROUP_TOPICS

_TIMEOUT_S = 10.0


def read_members(connection: Connection) -> dict[str, int]:
    """Return how many processes of each role read. Raises BrokerError."""
    admin = AdminClient(connection.client())
    return {role: count_members(admin, connection.group(role)) for role in GROUP_TOPICS}


def count_members(admin: AdminClient, group: str) -> int:
    """Return a group's number of members, 0 if nobody has joined it yet. Raises BrokerError.

    A process that was killed counts until its session has ended, after six seconds.
    """
    described = cast("dict[str, Future[ConsumerGroupDescription]]", admin.describe_consumer_groups([group]))
    try:
        return len(described[group].result(_TIMEOUT_S).members)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return 0
        raise BrokerError(f"the members of group {group} cannot be seen: {error.args[0]}") from error
