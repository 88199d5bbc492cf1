"""Reading stated ranges of topics without a group, and asking where they begin and end.

Ends are those of the whole log, open transactions included; ``read`` therefore waits until transactions that
were open below the end have ended, and what it gives is all that will ever be there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from typing import cast

from confluent_kafka import Consumer, IsolationLevel, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, ListOffsetsResultInfo, OffsetSpec

from ...schemas.errors import BrokerError
from ...schemas.topics import Topic
from .connection import Connection
from .reader import end_of_partition
from .retry import Unanswered, retry

# "From this time on" is answered with -1 where there is no record. An offset below -1 means "unknown": while
# a broker is failing, librdkafka can return -1001 without an error. Taken for an offset, it would make a log
# begin or end where it does not.
_NO_RECORD = -1
_RUN = 10_000


class Cancelled(Exception):
    """Reading was called off."""


class LogOffsets:
    """Where topics begin, end, and stood at a time. Thread safe.

    Raises BrokerError when the cluster does not answer for ``timeout_s``.
    """

    def __init__(self, connection: Connection, *, timeout_s: float = 30.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._admin = AdminClient(connection.client())

    def partitions(self, topic: Topic) -> list[int]:
        name = self._connection.topic(topic)
        metadata = self._cluster(name).topics[name]
        if metadata.error is not None:
            raise BrokerError(
                f"topic {name} cannot be read: {metadata.error}; create it with `driftloop topics apply`"
            )
        return sorted(metadata.partitions)

    def brokers(self, topic: Topic) -> int:
        """How many brokers the cluster has, each with its own clock."""
        return len(self._cluster(self._connection.topic(topic)).brokers)

    def _cluster(self, name: str) -> ClusterMetadata:
        try:
            return self._admin.list_topics(name, timeout=self._timeout_s)
        except KafkaException as error:
            raise BrokerError(f"cannot reach Kafka to look at {name}: {error.args[0]}") from error

    def begins(self, topic: Topic, partitions: list[int]) -> dict[int, int]:
        earliest = cast("OffsetSpec", OffsetSpec.earliest())
        return self._ask(topic, dict.fromkeys(partitions, earliest))

    def ends(self, topic: Topic, partitions: list[int]) -> dict[int, int]:
        """Offsets that the next records will get."""
        latest = cast("OffsetSpec", OffsetSpec.latest())
        return self._ask(topic, dict.fromkeys(partitions, latest))

    def at(
        self, topic: Topic, times_ms: Mapping[int, int], *, ends: Mapping[int, int] | None = None
    ) -> dict[int, int]:
        """Per partition the first offset appended at or after a time; its end where there is none.

        ``ends``: what to give there instead.
        """
        # The ends first: what is appended between the two questions must not pass for earlier than the time.
        ends = self.ends(topic, list(times_ms)) if ends is None else ends
        found = self._ask(
            topic, {p: OffsetSpec.for_timestamp(max(0, time_ms)) for p, time_ms in times_ms.items()}
        )
        return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}

    def _ask(self, topic: Topic, wanted: dict[int, OffsetSpec]) -> dict[int, int]:
        name = self._connection.topic(topic)
        request = {TopicPartition(name, partition): spec for partition, spec in wanted.items()}
        deadline = time.monotonic() + self._timeout_s

        def ask() -> dict[int, int]:
            try:
                return self._answer(request, max(0.1, deadline - time.monotonic()))
            except (KafkaException, Unanswered):
                # A client keeps asking with the leader epoch it once learned (seen: FENCED_LEADER_EPOCH for
                # ever after a broker's pause); a new one does not.
                self._admin = AdminClient(self._connection.client())
                raise

        try:
            return retry(ask, timeout_s=self._timeout_s)
        except (KafkaException, Unanswered) as error:
            raise BrokerError(f"cannot ask for the offsets of {name}: {error.args[0]}") from error

    def _answer(self, request: dict[TopicPartition, OffsetSpec], timeout_s: float) -> dict[int, int]:
        answers = cast(
            "dict[TopicPartition, Future[ListOffsetsResultInfo]]",
            self._admin.list_offsets(
                request, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=timeout_s
            ),
        )
        found = {where.partition: answer.result().offset for where, answer in answers.items()}
        unknown = [partition for partition, offset in found.items() if offset < _NO_RECORD]
        if unknown:
            raise Unanswered(f"partitions {unknown} were not answered")
        return found


class LogRanges:
    """Reads ranges of one thread's choosing; its consumer stays connected in between."""

    def __init__(self, connection: Connection, *, name: str, stalled_s: float = 30.0) -> None:
        """``stalled_s``: longer than a transaction may stay open."""
        self._connection = connection
        self._stalled_s = stalled_s
        # A short fetch wait: a fetch that waits for data holds back the assignment of the next range.
        self._consumer = Consumer(
            connection.consumer(f"ranges-{name}", fetch_wait_max_ms=10, auto_offset_reset="error")
        )

    def read(
        self,
        topic: Topic,
        ranges: Mapping[int, tuple[int, int]],
        cancel: threading.Event | None = None,
        *,
        prefix: bytes = b"",
    ) -> Iterator[Message]:
        """Committed records from each partition's first offset up to, not including, its second.

        In order per partition; only those whose value begins with ``prefix``. Raises BrokerError when nothing
        arrives for ``stalled_s`` or the log no longer holds the range's beginning, Cancelled once ``cancel``
        is set.
        """
        starts = {partition: start for partition, (start, end) in ranges.items() if start < end}
        waiting = {partition: ranges[partition][1] for partition in starts}
        with closing(self._arrivals(topic, starts, waiting, cancel)) as arrivals:
            for messages in arrivals:
                for message in messages:
                    if self._is_in(message, waiting):
                        value = message.value()
                        if not prefix or (isinstance(value, bytes) and value.startswith(prefix)):
                            yield message

    def runs(self, topic: Topic, partition: int, offsets: tuple[int, int]) -> Iterator[list[Message]]:
        """As ``read``, for one partition and in lists of what has come: nothing is done for each record."""
        start, end = offsets
        if start >= end:
            return
        waiting = {partition: end}
        with closing(self._arrivals(topic, {partition: start}, waiting, most=_RUN)) as arrivals:
            for messages in arrivals:
                last = messages[-1]
                if last.error() is None and (last.offset() or 0) + 1 < end:
                    found = [message for message in messages if message.error() is None]
                    if len(found) == len(messages):
                        yield found
                        continue
                found = [message for message in messages if self._is_in(message, waiting)]
                if found:
                    yield found

    def _arrivals(
        self,
        topic: Topic,
        starts: Mapping[int, int],
        waiting: dict[int, int],
        cancel: threading.Event | None = None,
        *,
        most: int = 1000,
    ) -> Generator[list[Message]]:
        """What arrives from ``starts`` on, until the caller has removed every partition from ``waiting``."""
        if not waiting:
            return
        name = self._connection.topic(topic)
        assigned = [TopicPartition(name, partition, start) for partition, start in sorted(starts.items())]
        self._consumer.assign(assigned)
        try:
            moved_at = time.monotonic()
            while waiting:
                messages = self._poll(most)
                now = time.monotonic()
                moved_at = now if messages else moved_at
                if cancel is not None and cancel.is_set():
                    raise Cancelled
                if now - moved_at > self._stalled_s:
                    raise BrokerError(f"{name} could not be read to {waiting} within {self._stalled_s:g} s")
                if messages:
                    yield messages
        finally:
            self._consumer.resume(assigned)  # librdkafka remembers a pause beyond the assignment
            self._consumer.unassign()

    def _poll(self, most: int = 1000) -> list[Message]:
        first = self._consumer.poll(0.1)
        return [] if first is None else [first, *self._consumer.consume(most, timeout=0)]

    def _is_in(self, message: Message, waiting: dict[int, int]) -> bool:
        """Whether it is a record of its range; a range that is read to its end waits no longer."""
        partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
        end = waiting.get(partition)
        if end is None:
            return False
        reached = offset + 1 if error is None else end_of_partition(message)
        if reached is None:
            if error is not None and error.retriable():
                return False
            raise BrokerError(f"{message.topic()}[{partition}] cannot be read: {error}")
        if reached >= end:
            del waiting[partition]
            self._consumer.pause([TopicPartition(message.topic() or "", partition)])
        return error is None and offset < end

    def close(self) -> None:
        self._consumer.close()
