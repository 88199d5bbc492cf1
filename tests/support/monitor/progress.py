"""How far a running monitor is, read from outside.

The monitor commits its group's offset on vitals every quarter second: everything below it is applied, and the
events it caused are acknowledged. After a crash it may step back, by at most a snapshot's interval.
"""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition
from driftloop.schemas.topics import VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import committed_offsets

GROUP = "monitor"


class MonitorProgress:
    """One small request per call. Never joins the group. Close after use."""

    def __init__(self, connection: Connection, *, timeout_s: float = 10.0) -> None:
        self._consumer = Consumer(connection.consumer(GROUP))
        self._timeout_s = timeout_s
        topic = connection.topic(VITALS)
        found = self._consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        assert found.error is None, found.error
        self._partitions = [TopicPartition(topic, number) for number in sorted(found.partitions)]

    def applied(self) -> dict[int, int]:
        """Per vitals partition, the offset below which everything is applied; 0 before the first."""
        committed = committed_offsets(self._consumer, self._partitions, timeout_s=self._timeout_s)
        return {partition.partition: max(0, partition.offset) for partition in committed}

    def behind(self) -> int:
        """Offsets not yet applied, over all partitions; 0 means that everything committed is applied."""
        applied, behind = self.applied(), 0
        for partition in self._partitions:
            bounds = self._consumer.get_watermark_offsets(partition, timeout=self._timeout_s)
            assert bounds is not None, f"no answer about {partition}"
            behind += max(0, bounds[1] - applied[partition.partition])
        return behind

    def close(self) -> None:
        self._consumer.close()
