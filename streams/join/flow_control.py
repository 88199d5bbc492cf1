"""Flow control: which fetched records of a partition are processed now, and which wait.

Kafka hands out bytes, so the topic with the smaller records is read further in the same time. What is ahead
would wait in the joiner's state: it costs memory, and each id is written to disk twice. So during a backlog
the watermarks of both topics are kept aligned. Records appended after everything that was fetched of the
other topic are held, in their order, as long as the other topic is known to have more. A topic of which too
much is held is paused. Without a backlog nothing is held.

A topic without traffic must not stop expiry. Where one has ended while time advances elsewhere, the broker is
asked whether it still ends there; if so, its idle watermark advances. A topic that an open transaction keeps
from being read is not idle.

What the joiner emits depends on none of this (see ``join.core``).
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ...schemas.errors import BrokerError
from ...schemas.topics import LABELS, PREDICTIONS, Topic
from ..kafka.offsets import LogOffsets
from .config import JoinTuning
from .reading.columns import append_ms_of, offset_of
from .state.position import INPUTS, NO_WATERMARKS, Position, Watermarks
from .stats import JoinStats

log = logging.getLogger(__name__)

Record = TypeVar("Record")

_OTHER: Mapping[Topic, Topic] = {PREDICTIONS: LABELS, LABELS: PREDICTIONS}
_SILENCE_S = 1.0  # a topic of which nothing comes for so long is not waited for: its broker may be down
_IDLE_MS = 1_000  # behind the newest record of any partition
_ASK_S = 2.0


@dataclass(slots=True)
class _FetchedTopic(Generic[Record]):
    """What was fetched of one topic. ``end``: where it was seen to end, until its next record comes."""

    next_offset: int
    newest_ms: int = 0
    last_s: float | None = None
    end: int | None = None
    held: list[Record] = field(default_factory=list[Record])


class WatermarkAlignment(Generic[Record]):
    """Decides which records of one partition are processed now. Pure: no Kafka, no clock."""

    def __init__(
        self,
        offset_of: Callable[[Record], int],
        append_ms_of: Callable[[Record], int],
        position: Position,
        *,
        backlog: int,
        max_batch: int,
    ) -> None:
        """``backlog``: more records than this must be known to come of a topic for the other one to wait."""
        self._offset_of, self._append_ms_of = offset_of, append_ms_of
        self._backlog, self._max_batch = backlog, max_batch
        self.restart(position)

    def restart(self, position: Position) -> None:
        """Forget what was fetched: both topics are read again from ``position``."""
        self._topics = {topic: _FetchedTopic[Record](position.next_offset(topic)) for topic in INPUTS}

    def held(self, topic: Topic) -> int:
        """Return how many of its records are held."""
        return len(self._topics[topic].held)

    def saw_end(self, topic: Topic, offset: int) -> None:
        self._topics[topic].end = offset

    def end(self, topic: Topic, position: Position) -> int | None:
        """Return where the topic ends if everything before that was processed, else None."""
        fetched = self._topics[topic]
        return None if fetched.next_offset > position.next_offset(topic) else fetched.end

    def receive(self, topic: Topic, records: list[Record], now: float) -> None:
        """Take in what was fetched; records that come again, as after a pause, are dropped."""
        fetched = self._topics[topic]
        if self._offset_of(records[0]) < fetched.next_offset:
            records = [record for record in records if self._offset_of(record) >= fetched.next_offset]
        if not records:
            return
        fetched.held += records
        fetched.next_offset = self._offset_of(records[-1]) + 1
        fetched.newest_ms = max(fetched.newest_ms, self._append_ms_of(records[-1]))
        fetched.last_s = now
        if fetched.end is not None and fetched.end < fetched.next_offset:
            fetched.end = None

    def release(self, log_ends: Mapping[Topic, int], now: float) -> dict[Topic, list[Record]]:
        """Return what may be processed now, of each topic at most ``max_batch`` records.

        ``log_ends``: of both topics, below 0 where unknown.
        """
        has_more = {topic: self._has_more(topic, log_ends[topic], now) for topic in INPUTS}
        released: dict[Topic, list[Record]] = {}
        for topic, fetched in self._topics.items():
            other, held = _OTHER[topic], fetched.held
            count = len(held)
            if has_more[other]:
                count = bisect_right(held, self._topics[other].newest_ms, key=self._append_ms_of)
            if count:
                count = min(count, self._max_batch)
                released[topic], fetched.held = held[:count], held[count:]
        return released

    def _has_more(self, topic: Topic, log_end: int, now: float) -> bool:
        fetched = self._topics[topic]
        if fetched.end is not None:
            return False
        if fetched.last_s is None:
            fetched.last_s = now
        return now - fetched.last_s < _SILENCE_S and log_end - fetched.next_offset > self._backlog


@dataclass(slots=True)
class _Partition:
    alignment: WatermarkAlignment[Message]
    paused: set[Topic] = field(default_factory=set[Topic])
    idle: Watermarks = NO_WATERMARKS


class FlowControl:
    """Flow control of the partitions that a consumer owns."""

    def __init__(
        self,
        consumer: Consumer,
        offsets: LogOffsets,
        names: Mapping[Topic, str],
        tuning: JoinTuning,
        stats: JoinStats,
    ) -> None:
        """``names``: of the topics on the cluster."""
        self._consumer, self._offsets, self._names = consumer, offsets, names
        self._tuning, self._stats = tuning, stats
        self._partitions: dict[int, _Partition] = {}

    def assign(self, number: int, position: Position) -> None:
        """Begin with a partition whose topics are fetched from ``position``."""
        tuning = self._tuning
        self._partitions[number] = _Partition(
            WatermarkAlignment(
                offset_of, append_ms_of, position, backlog=tuning.backlog, max_batch=tuning.max_batch
            )
        )

    def revoke(self) -> None:
        self._partitions.clear()

    def saw_end(self, number: int, topic: Topic, offset: int) -> None:
        self._partitions[number].alignment.saw_end(topic, offset)

    def release(
        self, fetched: Mapping[int, Mapping[Topic, list[Message]]]
    ) -> dict[int, dict[Topic, list[Message]]]:
        """Return per partition and topic what is processed now, of what was fetched now and held before."""
        now = time.monotonic()
        released: dict[int, dict[Topic, list[Message]]] = {}
        for number, partition in self._partitions.items():
            alignment = partition.alignment
            for topic, messages in fetched.get(number, {}).items():
                alignment.receive(topic, messages, now)
            if any(map(alignment.held, INPUTS)):
                log_ends = {topic: self._log_end(number, topic) for topic in INPUTS}
                released[number] = alignment.release(log_ends, now)
                self._pause_or_resume(number, partition)
        self._stats.held = sum(
            partition.alignment.held(topic) for partition in self._partitions.values() for topic in INPUTS
        )
        return {number: of_partition for number, of_partition in released.items() if of_partition}

    def rewind(self, number: int, position: Position) -> None:
        """Fetch both topics of a partition again from ``position``. Raises BrokerError if that is refused."""
        partition = self._partitions[number]
        partition.alignment.restart(position)
        self._pause_or_resume(number, partition)
        for topic, name in self._names.items():
            place = TopicPartition(name, number, position.next_offset(topic))
            try:
                self._consumer.seek(place)
            except KafkaException as error:  # the partition was revoked, or the consumer fenced
                where = f"{name}[{number}] cannot be read again from offset {place.offset}"
                raise BrokerError(f"{where}: {error.args[0]}") from error

    def lag(self, positions: Mapping[int, Position]) -> int:
        """Return how many offsets these partitions have to go, as far as their ends are known."""
        return sum(
            max(0, self._log_end(number, topic) - position.next_offset(topic))
            for number, position in positions.items()
            for topic in INPUTS
            if self._partitions[number].alignment.end(topic, position) is None
        )

    def idle_watermarks(self, number: int) -> Watermarks:
        return self._partitions[number].idle

    def advance_idle(self, positions: Mapping[int, Position]) -> set[int]:
        """Advance the watermarks of topics that are idle; return the partitions where one was.

        ``positions``: of the partitions that are live.
        """
        newest_ms = max((position.newest_ms for position in positions.values()), default=0)
        return {
            number for topic in INPUTS for number in self._advance_idle_topic(topic, positions, newest_ms)
        }

    def _advance_idle_topic(
        self, topic: Topic, positions: Mapping[int, Position], newest_ms: int
    ) -> Iterator[int]:
        ends: dict[int, int] = {}
        for number, position in positions.items():
            partition = self._partitions[number]
            end = partition.alignment.end(topic, position)
            if end is not None and newest_ms - position.watermarks(partition.idle).of(topic) > _IDLE_MS:
                ends[number] = end
        if not ends:
            return
        log_ends = self._log_ends(topic, list(ends))
        for number, end in ends.items():
            if log_ends.get(number) == end:
                partition = self._partitions[number]
                partition.idle = partition.idle.advanced(topic, newest_ms)
                yield number

    def _log_ends(self, topic: Topic, numbers: list[int]) -> Mapping[int, int]:
        """Ask where the topic ends now; nothing if no broker answers.

        The end that was seen may be older than the newest record elsewhere: only the broker knows. It is
        asked for the end of all records. To readers of committed records a log ends before an open
        transaction, whatever other producers have appended behind it.
        """
        try:
            return self._offsets.ends(topic, numbers, timeout_s=_ASK_S)
        except BrokerError as error:
            log.warning("whether %s is idle is not known: %s", self._names[topic], error)
            return {}

    def _log_end(self, number: int, topic: Topic) -> int:
        """Return the end as the broker last reported it; below 0 if it has not yet."""
        place = TopicPartition(self._names[topic], number)
        return self._consumer.get_watermark_offsets(place, cached=True)[1]

    def _pause_or_resume(self, number: int, partition: _Partition) -> None:
        """Pauses are costly: librdkafka drops what it has read ahead of a topic that is paused."""
        most = self._tuning.max_held
        for topic, name in self._names.items():
            place, held = [TopicPartition(name, number)], partition.alignment.held(topic)
            if topic in partition.paused:
                if held <= most // 5:
                    self._consumer.resume(place)
                    partition.paused.discard(topic)
            elif held > most:
                self._consumer.pause(place)
                partition.paused.add(topic)
                self._stats.pauses += 1
