"""The offsets a group has committed, or an error: a missing answer never passes for "nothing committed yet".

librdkafka answers partition by partition. For a partition that could not be answered (its coordinator was
moving, for example) it returns an error and no offset, just as it returns no offset for a partition without
commits. Taking the one for the other would read a topic from its beginning again.
"""

from __future__ import annotations

from typing import Protocol

from confluent_kafka import KafkaException, TopicPartition

from ...schemas.errors import BrokerError
from .retry import retry

_CALL_S = 10.0


class Group(Protocol):
    """What is needed of confluent_kafka's Consumer."""

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]: ...


def committed_offsets(
    group: Group, places: list[TopicPartition], *, timeout_s: float
) -> list[TopicPartition]:
    """Return ``places`` with the group's offsets, negative where none was ever committed.

    The question is repeated for ``timeout_s`` while a partition is not answered, or while an open transaction
    may yet move an offset. Raises BrokerError when even one partition's offset is unknown by then.
    """

    def ask() -> list[TopicPartition]:
        found = group.committed(places, timeout=min(_CALL_S, timeout_s))
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return found

    try:
        return retry(ask, timeout_s=timeout_s)
    except KafkaException as error:
        raise BrokerError(f"the group's committed offsets cannot be read: {error.args[0]}") from error
