"""Read given ranges of topics, without a group.

Ends are those of the whole log, open transactions included (``LogOffsets`` returns such ends). Reading
therefore waits until transactions that are open below the end have ended: it returns all that will ever be
in the range.

On failure: BrokerError; nothing was committed, so read the range again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing

from confluent_kafka import Consumer, Message, TopicPartition

from ...schemas.errors import BrokerError
from ...schemas.topics import Topic
from .connection import Connection
from .reader import end_of_partition, report_error

_CHUNK = 10_000


class Cancelled(Exception):
    """Reading was cancelled."""


class LogRanges:
    """Reads one range after another, for one thread; its consumer stays connected in between."""

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
        ranges: Mapping[int, range],
        cancel: threading.Event | None = None,
        *,
        prefix: bytes = b"",
    ) -> Iterator[Message]:
        """Committed records whose offsets are in the range of their partition.

        In order per partition; only those whose value begins with ``prefix``. Raises BrokerError when nothing
        arrives for ``stalled_s`` or the log no longer holds the range's beginning, Cancelled once ``cancel``
        is set.
        """
        starts = {partition: offsets.start for partition, offsets in ranges.items() if offsets}
        waiting = {partition: ranges[partition].stop for partition in starts}
        with closing(self._arrivals(topic, starts, waiting, cancel)) as arrivals:
            for messages in arrivals:
                for message in messages:
                    if self._is_in(message, waiting):
                        value = message.value()
                        if not prefix or (isinstance(value, bytes) and value.startswith(prefix)):
                            yield message

    def read_chunks(self, topic: Topic, partition: int, offsets: range) -> Iterator[list[Message]]:
        """As ``read``, for one partition and in lists of what has arrived, without a step for each record."""
        starts, end = {partition: offsets.start}, offsets.stop
        waiting = {partition: end} if offsets else {}
        with closing(self._arrivals(topic, starts, waiting, most=_CHUNK)) as arrivals:
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
        """Whether this is a record of its range; a range that is read to its end leaves ``waiting``."""
        if message.topic() is None:  # of a broker, not of a partition
            report_error(message)
            return False
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
