"""How long a partition is without outcomes after its joiner was struck, as a reader of outcomes sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka.connection import Connection


@dataclass(slots=True)
class Recovery:
    """One partition of one struck joiner. ``ms``: until an outcome appended after the fault was readable.

    ``overlapped``: struck again before that. ``disturbed``: a broker was away at some time of it.
    """

    fault: int
    how: str
    partition: int
    struck_ms: int
    struck_at: float
    ms: float | None = None
    overlapped: bool = False
    disturbed: bool = False


class Watch(threading.Thread):
    """Reads outcomes (read_committed) as they come."""

    def __init__(self, connection: Connection, partitions: int) -> None:
        super().__init__(name="watch", daemon=True)
        self._connection = connection
        self._stop_asked = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[int, Recovery] = {}
        self._consumer = Consumer(connection.consumer("soak-watch", enable_partition_eof=False))
        topic = connection.topic(OUTCOMES)
        self._consumer.assign([TopicPartition(topic, number, -1) for number in range(partitions)])  # -1: end
        self._admin = AdminClient(connection.client())
        self.recoveries: list[Recovery] = []
        self.outcomes = 0
        self.failure: Exception | None = None

    def owned_by(self, instance: str) -> tuple[int, ...]:
        """The partitions that the group has given to this joiner; none while it rebalances."""
        described = self._described(self._connection.group("join"))
        owned: set[int] = set()
        for member in described.members:
            if member.group_instance_id == instance and member.assignment is not None:
                owned.update(place.partition for place in member.assignment.topic_partitions)
        return tuple(sorted(owned))

    def _described(self, group: str) -> ConsumerGroupDescription:
        for _ in range(3):
            try:
                described = self._admin.describe_consumer_groups([group], request_timeout=10)
                return cast("ConsumerGroupDescription", described[group].result(15))
            except KafkaException:
                # An admin client goes on asking a coordinator that has moved: a new one looks for it.
                self._admin = AdminClient(self._connection.client())
        raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE))

    def all_recovered(self) -> bool:
        """Whether every partition that was struck has had an outcome since."""
        return not self._open

    def disturbed(self) -> None:
        """A broker was struck: what has not recovered yet waits for that, too."""
        with self._lock:
            for one in self._open.values():
                one.disturbed = True

    def struck(self, fault: int, how: str, partitions: Iterable[int], *, disturbed: bool) -> None:
        now_ms, now = int(time.time() * 1000), time.monotonic()
        with self._lock:
            for number in partitions:
                before = self._open.get(number)
                if before is not None:
                    before.overlapped = True
                self._open[number] = Recovery(fault, how, number, now_ms, now, disturbed=disturbed)
                self.recoveries.append(self._open[number])

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                messages = self._consumer.consume(5_000, 0.05)
                now = time.monotonic()
                self.outcomes += len(messages)
                if not self._open:
                    continue
                with self._lock:
                    for message in messages:
                        one = self._open.get(message.partition() or 0)
                        if one and message.error() is None and message.timestamp()[1] > one.struck_ms:
                            one.ms = (now - one.struck_at) * 1000
                            del self._open[one.partition]
        except Exception as error:  # noqa: BLE001  # raised by ``end``, in the thread that calls it
            self.failure = error
        finally:
            self._consumer.close()

    def end(self) -> None:
        self._stop_asked.set()
        self.join()
        if self.failure is not None:
            raise self.failure
