"""Read whole topics without a group: specs, runs, model updates, acknowledgements.

"Caught up" means that PARTITION_EOF was seen on every partition. Comparing record offsets with the end would
wait for ever, since transaction markers occupy offsets. Where records never stop coming there may be no
PARTITION_EOF; then a partition is caught up at the first record at or beyond the end that it had.

On failure: BrokerError; nothing was committed, so read again from the beginning.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...schemas.errors import BrokerError
from ...schemas.topics import Topic
from .connection import Connection
from .offsets import topic_partitions
from .record import Record

log = logging.getLogger(__name__)

_ASK_S = 5.0
_BUSY_S = 1.0  # by then a topic at rest has been read, or reading takes so long that a request is cheap
# A consumer's fatal error, most often that its static membership went to another process, comes as a message
# whose error is not marked as fatal; the consumer would read nothing any more, and say nothing.
_FINAL = frozenset(
    {
        KafkaError._FATAL,  # pyright: ignore[reportPrivateUsage]
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
_OFFSET_TAIL_BASE = -2000  # librdkafka's RD_KAFKA_OFFSET_TAIL(n) is -2000 - n; Python has no name for it


def newest(records: int) -> int:
    """A ``start`` that reads only the newest ``records`` offsets of each partition."""
    return _OFFSET_TAIL_BASE - records


def as_record(message: Message) -> Record:
    """A delivered message (never an error event) as a Record."""
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        append_ms=message.timestamp()[1],
        key=_as_bytes(message.key()),
        value=_as_bytes(message.value()),
    )


def _as_bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


def raise_if_final(message: Message) -> None:
    """Raise BrokerError where waiting does not help: the consumer is finished, or may not read the topic."""
    error = message.error()
    if error is not None and (error.fatal() or error.code() in _FINAL):
        raise BrokerError(f"{_source_of(message)} cannot be read: {error}")


def _source_of(message: Message) -> str:
    topic = message.topic()
    return f"{topic}[{message.partition()}]" if topic else "Kafka"


def end_of_partition(message: Message) -> int | None:
    """Return the offset of the next record if the partition was read to its end, None for any other message.

    That offset is beyond the markers of transactions, which no record's offset tells.
    """
    error = message.error()
    if error is None or error.code() != KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
        return None
    return message.offset() or 0


def report_error(message: Message) -> None:
    """Log what a consumer says in place of a record; it goes on by itself.

    What is said of a broker or of the group, as while a node dies, names no topic. Raises BrokerError where
    waiting does not help (``raise_if_final``).
    """
    raise_if_final(message)
    log.warning("%s: %s", _source_of(message), message.error())


class LogReader:
    """Follows all partitions of some topics from their beginning (or given offsets), read_committed."""

    def __init__(
        self,
        connection: Connection,
        topics: tuple[Topic, ...],
        *,
        partitions: frozenset[int] | None = None,
        start: int = OFFSET_BEGINNING,
        timeout_s: float = 30.0,
    ) -> None:
        """Raise BrokerError when the cluster or a topic cannot be reached within ``timeout_s``."""
        self._connection = connection
        self._consumer = Consumer(connection.consumer(f"reader-{uuid.uuid4().hex}"))
        self._at_end: dict[tuple[str, int], bool] = {}
        self._next: dict[tuple[str, int], int] = {}
        assignment: list[TopicPartition] = []
        for topic in topics:
            name = connection.topic(topic)
            for partition in topic_partitions(self._consumer, name, timeout_s):
                if partitions is None or partition in partitions:
                    assignment.append(TopicPartition(name, partition, start))
                    self._at_end[(name, partition)] = False
        self._consumer.assign(assignment)

    @property
    def caught_up(self) -> bool:
        """Whether the end of every partition has been seen since the last record of it."""
        return all(self._at_end.values())

    def poll(self, timeout_s: float = 0.0, *, max_records: int = 1000) -> list[Record]:
        """Return what has arrived, in order per partition. Waits up to ``timeout_s`` for the first record.

        Raises BrokerError where waiting does not help, above all where this principal may not read the topic.
        """
        records: list[Record] = []
        for message in self._consumer.consume(max_records, timeout=timeout_s):
            error = message.error()
            where = (message.topic() or "", message.partition() or 0)
            if error is None:
                record = as_record(message)
                self._at_end[where], self._next[where] = False, record.offset + 1
                records.append(record)
            elif (end := end_of_partition(message)) is not None:
                self._at_end[where], self._next[where] = True, end
            else:
                report_error(message)
        return records

    def catch_up(self, deadline_s: float = 60.0) -> Iterator[Record]:
        """Read to the end that each partition had when this began, and whatever arrives meanwhile.

        Raises BrokerError past the deadline.
        """
        began = time.monotonic()
        behind = {place for place, done in self._at_end.items() if not done}
        ends: dict[tuple[str, int], int] = {}
        while behind:
            if time.monotonic() - began > deadline_s:
                where = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(behind))
                raise BrokerError(f"could not read {where} to the end within {deadline_s:g} s")
            if not ends and time.monotonic() - began > _BUSY_S:
                ends = self._ends(behind)
            for record in self.poll(0.1):
                place = (record.topic, record.partition)
                if ends and record.offset + 1 >= ends[place]:
                    behind.discard(place)
                yield record
            behind -= {place for place in behind if self._at_end[place]}

    def read_to(self, topic: Topic, ends: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """Read what is below these offsets (LogOffsets returns such ends) and was not read before.

        Raises BrokerError past the timeout.
        """
        name, until = self._connection.topic(topic), time.monotonic() + timeout_s
        while any(self._next.get((name, partition), 0) < end for partition, end in ends.items()):
            if time.monotonic() > until:
                raise BrokerError(f"could not read {name} to {dict(ends)} within {timeout_s:g} s")
            yield from self.poll(0.05)

    def _ends(self, places: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Where committed records end. An unknown end is infinite, so that only PARTITION_EOF counts."""
        ends = dict.fromkeys(self._at_end, sys.maxsize)
        for place in places:
            try:
                found = cast(
                    "tuple[int, int] | None",
                    self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_ASK_S),
                )
            except KafkaException as error:
                log.warning("%s[%d]: its end is unknown: %s", *place, error.args[0])
                continue
            if found is not None:
                ends[place] = found[1]
        return ends

    def close(self) -> None:
        self._consumer.close()


def newest_values(connection: Connection, topic: Topic, *, timeout_s: float = 30.0) -> dict[str, bytes]:
    """Read a compacted topic whole: key → newest value. Raises BrokerError when that cannot be done."""
    found: dict[str, bytes] = {}
    with closing(LogReader(connection, (topic,), timeout_s=timeout_s)) as reader:
        for record in reader.catch_up():
            key = (record.key or b"").decode(errors="replace")
            found.pop(key, None)
            if record.value is not None:
                found[key] = record.value
    return found
