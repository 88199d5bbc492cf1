"""Fetching: the consumer's messages, sorted by partition and topic."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, Message

from ...schemas.errors import BrokerError
from ...schemas.topics import Topic
from ..kafka.reader import end_of_partition
from .config import JoinTuning
from .flow_control import FlowControl
from .recovery.data_loss import DataLossCheck

log = logging.getLogger(__name__)

_NO_OFFSET = KafkaError._AUTO_OFFSET_RESET  # pyright: ignore[reportPrivateUsage]

Fetched = dict[int, dict[Topic, list[Message]]]


class Fetcher:
    """Fetches for one joiner. Ends of partitions go to flow control, lost offsets to the data loss check."""

    def __init__(
        self,
        consumer: Consumer,
        names: Mapping[Topic, str],
        flow: FlowControl,
        data_loss: DataLossCheck,
        tuning: JoinTuning,
    ) -> None:
        self._consumer, self._flow, self._data_loss, self._tuning = consumer, flow, data_loss, tuning
        self._topics = {name: topic for topic, name in names.items()}

    def consume(self, wait_s: float) -> list[Message]:
        """Return what has come, after waiting so long for the first message. Rebalances happen in here."""
        messages = self._consumer.consume(1, timeout=wait_s)
        if messages:
            messages += self._consumer.consume(self._tuning.max_batch - 1, timeout=self._tuning.linger_s)
        return messages

    def sort(self, messages: Iterable[Message]) -> Fetched:
        """Return the records per partition and topic.

        Raises StateError when an offset no longer exists, BrokerError after fatal errors.
        """
        fetched: Fetched = {}
        place, add = None, list[Message]().append
        for message in messages:
            error = message.error()
            here = message.topic(), message.partition()
            if error is None:
                if here != place:  # they come in runs
                    place, topic = here, self._topics[here[0] or ""]
                    add = fetched.setdefault(here[1] or 0, {}).setdefault(topic, []).append
                add(message)
                continue
            topic, number = self._topics[here[0] or ""], here[1] or 0
            if (end := end_of_partition(message)) is not None:
                self._flow.saw_end(number, topic, end)
                continue
            where = f"{here[0]}[{number}]"
            if error.code() == _NO_OFFSET:
                self._data_loss.out_of_range(topic, number, message.offset() or 0)
            if error.fatal():
                raise BrokerError(f"{where} cannot be read: {error}")
            log.warning("%s: %s", where, error)
        return fetched
