"""Fetching: the consumer's messages, sorted by partition and topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, Message

from ...schemas.topics import Topic
from ..kafka.reader import end_of_partition, report_error
from .flow_control import FlowControl
from .recovery.data_loss import DataLossCheck

_NO_OFFSET = KafkaError._AUTO_OFFSET_RESET  # pyright: ignore[reportPrivateUsage]

Fetched = dict[int, dict[Topic, list[Message]]]


def sorted_messages(
    messages: Iterable[Message], topics: Mapping[str, Topic], flow: FlowControl, data_loss: DataLossCheck
) -> Fetched:
    """Return the records per partition and topic. ``topics``: by their names on the cluster.

    Ends of partitions go to flow control, lost offsets to the data loss check. Raises StateError when an
    offset no longer exists, BrokerError after fatal errors.
    """
    fetched: Fetched = {}
    place, add = None, list[Message]().append
    for message in messages:
        error = message.error()
        here = message.topic(), message.partition()
        if error is None:
            if here != place:  # they come in runs
                place, topic = here, topics[here[0] or ""]
                add = fetched.setdefault(here[1] or 0, {}).setdefault(topic, []).append
            add(message)
            continue
        if here[0] is None:  # of a broker or of the group
            report_error(message)
            continue
        topic, number = topics[here[0]], here[1] or 0
        if (end := end_of_partition(message)) is not None:
            flow.saw_end(number, topic, end)
            continue
        if error.code() == _NO_OFFSET:
            data_loss.out_of_range(topic, number, message.offset() or 0)
        report_error(message)
    return fetched
