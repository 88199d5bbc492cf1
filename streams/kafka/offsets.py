"""The offsets a group has committed, or an error: no answer never passes for "nothing yet".

librdkafka answers partition by partition. One that could not be answered (its coordinator was moving, say)
carries an error and no offset, as a partition without commits carries none. Taking the one for the other
would read a topic from its beginning again.
"""

from __future__ import annotations

import time
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ...schemas.errors import BrokerError

_CALL_S = 10.0
_PAUSE_S = 0.1


class Group(Protocol):
    """What is needed of confluent_kafka's Consumer."""

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]: ...


def committed_offsets(
    group: Group, places: list[TopicPartition], *, patience_s: float
) -> list[TopicPartition]:
    """``places`` with the group's offsets; a negative one where none was ever committed.

    Asks again for ``patience_s`` while there is no answer, or an open transaction may yet move an offset.
    Raises BrokerError when even one partition's offset could not be had by then.
    """
    until = time.monotonic() + patience_s
    while True:
        found, reason = _asked(group, places, min(_CALL_S, patience_s))
        if reason is None:
            return found
        if time.monotonic() > until:
            raise BrokerError(f"the group's committed offsets cannot be read: {reason}")
        time.sleep(_PAUSE_S)


def _asked(
    group: Group, places: list[TopicPartition], timeout_s: float
) -> tuple[list[TopicPartition], KafkaError | None]:
    try:
        found = group.committed(places, timeout=timeout_s)
    except KafkaException as error:
        return [], error.args[0]
    return found, next((place.error for place in found if place.error is not None), None)
