"""Which topics are idle while time goes on elsewhere: their clocks go on without a record."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ...schemas.topics import Topic
from .partition import INPUTS, AssignedPartition

log = logging.getLogger(__name__)

_IDLE_MS = 1_000  # behind the newest record of any partition
_ASK_S = 2.0


class IdleTopics:
    """Asks a consumer's brokers where a topic ends that seems to be idle."""

    def __init__(self, consumer: Consumer, names: Mapping[Topic, str]) -> None:
        """``names``: of the topics on the cluster."""
        self._consumer = consumer
        self._names = names

    def note(self, live: Iterable[AssignedPartition]) -> list[int]:
        """Tells partitions of their idle topics; gives the numbers of those partitions."""
        partitions = list(live)
        newest_ms = max((owned.joiner.position.newest_ms for owned in partitions), default=0)
        return [
            owned.number
            for owned in partitions
            for topic in INPUTS
            if owned.end(topic) is not None
            and newest_ms - owned.clock_ms(topic) > _IDLE_MS
            and self._is_idle(owned, topic, newest_ms)
        ]

    def _is_idle(self, owned: AssignedPartition, topic: Topic, newest_ms: int) -> bool:
        """Asks the broker, because what was seen of the end may be older than ``newest_ms``."""
        place = TopicPartition(self._names[topic], owned.number)
        try:
            _, end = self._consumer.get_watermark_offsets(place, timeout=_ASK_S, cached=False)
        except KafkaException as error:
            log.warning("%s[%d]: its end is not known: %s", place.topic, place.partition, error.args[0])
            return False
        if end != owned.end(topic):
            return False
        owned.is_idle_until(topic, newest_ms)
        return True
