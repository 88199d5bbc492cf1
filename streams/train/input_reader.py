"""Triggers and commands, read as a member of the trainers' group, each partition at a known position."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from ...schemas.errors import StateError
from ...schemas.topics import COMMANDS, TRIGGERS, Topic
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets, committed_offsets
from ..kafka.reader import as_record, end_of_partition, report_error
from ..kafka.record import Record
from ..kafka.stop_deadline import close_in_time
from ..kafka.transactions import Consumed, GroupMetadata

log = logging.getLogger(__name__)

INPUTS: tuple[Topic, ...] = (TRIGGERS, COMMANDS)
_COMMITTED_S = 30.0  # longer than a predecessor's transaction may stay open


class InputReader:
    """Reads what this trainer is assigned. ``position_lost``: a partition lost its place; call ``rewind``.

    ``assigned``: partitions were assigned whose state must be read, until ``take_assignment``.
    """

    def __init__(self, connection: Connection, offsets: LogOffsets, instance_id: str) -> None:
        self.topics = {connection.topic(topic): topic for topic in INPUTS}
        self.assigned = False
        self.position_lost = False
        self._closing = False
        self._offsets = offsets
        self._next: dict[tuple[str, int], int] = {}
        self._group: GroupMetadata = None
        self._consumer = Consumer(
            connection.consumer("trainer", group_instance_id=instance_id, auto_offset_reset="error")
        )

    def start(self) -> None:
        self._consumer.subscribe(list(self.topics), on_assign=self._on_assign, on_revoke=self._on_revoke)

    def close(self) -> None:
        self._closing = True
        close_in_time(self._consumer.close)

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(partition for _, partition in self._next)

    def take_assignment(self) -> frozenset[int]:
        """The partitions whose state is to be read now."""
        self.assigned = False
        return self.owned

    def poll(self, timeout_s: float) -> list[Record]:
        """What has come, at most 101 records."""
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first, *self._consumer.consume(100, timeout=0)]
        return [record for message in messages if (record := self._accept(message)) is not None]

    def consumed(self, partitions: Iterable[int]) -> Consumed:
        """The next offsets of these partitions, for the transaction that depends on what was read."""
        offsets = [
            TopicPartition(name, partition, self._next[name, partition])
            for partition in sorted(partitions)
            for name in self.topics
        ]
        return Consumed(offsets, self._group)

    def rewind(self) -> bool:
        """Go back to the committed offsets; False if nothing is assigned."""
        self.position_lost = False
        if not self._next:
            return False
        assigned = [TopicPartition(topic, partition) for topic, partition in self._next]
        self._next = self._positions(self._consumer, assigned)
        self._consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in self._next.items()])
        return True

    def _accept(self, message: Message) -> Record | None:
        """The message as a record, its offset noted; None if it is not one."""
        error = message.error()
        if error is None:
            record = as_record(message)
            self._next[record.topic, record.partition] = record.offset + 1
            return record
        if end_of_partition(message) is not None:
            return None
        topic = message.topic()
        if topic is not None and error.code() in (
            KafkaError._AUTO_OFFSET_RESET,
            KafkaError.OFFSET_OUT_OF_RANGE,
        ):  # pyright: ignore[reportPrivateUsage]
            partition = message.partition() or 0
            self._check_retention(topic, partition)
            log.warning("%s[%d]: %s; reading on from the group's offsets", topic, partition, error)
            self.position_lost = True
            return None
        report_error(message)
        return None

    def _check_retention(self, name: str, partition: int) -> None:
        """Raise StateError if the next record is gone; otherwise a lost position can be found again.

        A position can be lost without retention: librdkafka asks for the group's offset if it has none,
        and there is none before the first commit.
        """
        topic, wanted = self.topics[name], self._next.get((name, partition))
        begin = self._offsets.begins(topic, [partition])[partition]
        end = self._offsets.ends(topic, [partition])[partition]
        if wanted is not None and not begin <= wanted <= end:
            raise StateError(
                f"{name}[{partition}] holds offsets {begin} to {end}, but the trainer reads on from "
                f"{wanted}: retention outran it, or the topic was recreated; to go on "
                "from what is there, delete the group's offsets of that topic"
            )

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """Read on from the committed offsets: stable ones, so no predecessor's transaction moves them."""
        if self._closing:
            return  # an assignment that came while the consumer closes, and answers no question any more
        self._next = self._positions(consumer, assigned) if assigned else {}
        consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in self._next.items()])
        self._group = consumer.consumer_group_metadata()
        self.assigned = True

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """Give the partitions up; no transaction is open here."""
        log.info("partitions revoked: %s", sorted({tp.partition for tp in revoked}))
        self._next, self.assigned = {}, False

    def _positions(self, consumer: Consumer, assigned: list[TopicPartition]) -> dict[tuple[str, int], int]:
        committed = committed_offsets(consumer, assigned, timeout_s=_COMMITTED_S)
        begins = {
            (name, partition): offset
            for name, topic in self.topics.items()
            for partition, offset in self._offsets.begins(
                topic, sorted({tp.partition for tp in assigned if tp.topic == name})
            ).items()
        }
        return {
            (tp.topic, tp.partition): tp.offset if tp.offset >= 0 else begins[tp.topic, tp.partition]
            for tp in committed
        }
