"""Reading both topics of each partition in step: what ``join.pacing`` decides, done to a consumer."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, Message, TopicPartition

from ...schemas.topics import Topic
from .config import JoinStats, JoinTuning
from .partition import INPUTS, AssignedPartition


class TopicsInStep:
    """Holds back the topic that is ahead, and pauses it once too much of it is held."""

    def __init__(
        self, consumer: Consumer, names: Mapping[Topic, str], tuning: JoinTuning, stats: JoinStats
    ) -> None:
        """``names``: of the topics on the cluster."""
        self._consumer = consumer
        self._names = names
        self._tuning = tuning
        self._stats = stats

    def pass_on(
        self,
        owned: Mapping[int, AssignedPartition],
        fetched: Mapping[int, Mapping[Topic, list[Message]]],
    ) -> dict[int, dict[Topic, list[Message]]]:
        """By partition: what is to be processed now, of what was fetched now and held before."""
        now = time.monotonic()
        passed: dict[int, dict[Topic, list[Message]]] = {}
        for number, partition in owned.items():
            given = fetched.get(number, {})
            if given or any(map(partition.held, INPUTS)):
                ends = {topic: self.known_end(number, topic) for topic in INPUTS}
                ready = partition.pass_on(given, ends, now, self._tuning)
                if ready:
                    passed[number] = ready
                self._pause_or_resume(partition)
        self._stats.held = sum(partition.held(topic) for partition in owned.values() for topic in INPUTS)
        return passed

    def forget(self, partition: AssignedPartition) -> None:
        """Both of its topics are about to be sought anew."""
        partition.forget_fetched()
        self._pause_or_resume(partition)

    def known_end(self, number: int, topic: Topic) -> int:
        """The high watermark as the broker last told it; below 0 where it has not yet."""
        place = TopicPartition(self._names[topic], number)
        return self._consumer.get_watermark_offsets(place, cached=True)[1]

    def _pause_or_resume(self, partition: AssignedPartition) -> None:
        """Seldom is better: librdkafka drops what it has read ahead of a topic that is paused."""
        most = self._tuning.max_held
        for topic, name in self._names.items():
            place = [TopicPartition(name, partition.number)]
            if topic in partition.paused:
                if partition.held(topic) <= most // 5:
                    self._consumer.resume(place)
                    partition.paused.discard(topic)
            elif partition.held(topic) > most:
                self._consumer.pause(place)
                partition.paused.add(topic)
                self._stats.pauses += 1
