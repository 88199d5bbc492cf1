"""The offsets a group has committed, or an error: no answer never passes for "nothing yet".

librdkafka answers partition by partition. One that could not be answered (its coordinator was moving, say)
carries an error and no offset, as a partition without commits carries none. Taking the one for the other
would read a topic from its beginning again.
"""

from __future__ import annotations

from typing import Protocol

from confluent_kafka import KafkaException, TopicPartition


class Group(Protocol):
    """What is needed of confluent_kafka's Consumer."""

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]: ...


def committed_offsets(group: Group, places: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
    """``places`` with the group's offsets; a negative one where none was ever committed.

    Raises KafkaException when even one partition's offset could not be had.
    """
    found = group.committed(places, timeout=timeout_s)
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return found
