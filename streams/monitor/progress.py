"""How far the monitor has come, for others to read.

The monitor commits its group's offset on vitals every quarter second: everything below it is applied and the
events it caused are acknowledged. The monitor itself never reads it (see ``monitor.state``), so the figure
may step back after a crash, by at most a snapshot's interval, while records are applied again.
"""

from __future__ import annotations

from typing import cast

from confluent_kafka import Consumer, TopicPartition

from ...schemas.errors import BrokerError
from ...schemas.topics import VITALS
from ..kafka.connection import Connection
from ..kafka.offsets import committed_offsets

GROUP = "monitor"


class MonitorProgress:
    """Reads the monitor's progress; one small request per call. Never joins the group. Close after use."""

    def __init__(self, connection: Connection, *, timeout_s: float = 10.0) -> None:
        self._consumer = Consumer(connection.consumer(GROUP))
        self._topic = connection.topic(VITALS)
        self._timeout_s = timeout_s
        self._places: list[TopicPartition] | None = None

    def applied(self) -> dict[int, int]:
        """Per vitals partition, the offset below which everything is applied; 0 before the first."""
        committed = committed_offsets(self._consumer, self._partitions(), timeout_s=self._timeout_s)
        return {place.partition: max(0, place.offset) for place in committed}

    def ends(self) -> dict[int, int]:
        """Per vitals partition, the present end (read_committed). One request per partition."""
        ends: dict[int, int] = {}
        for place in self._partitions():
            bounds = cast(
                "tuple[int, int] | None",
                self._consumer.get_watermark_offsets(place, timeout=self._timeout_s),
            )
            if bounds is None:
                raise BrokerError(f"no answer about {place.topic}[{place.partition}]")
            ends[place.partition] = bounds[1]
        return ends

    def behind(self) -> int:
        """Offsets not yet applied, over all partitions; 0 means that everything committed is applied."""
        ends = self.ends()
        applied = self.applied()
        return sum(max(0, end - applied[partition]) for partition, end in ends.items())

    def close(self) -> None:
        self._consumer.close()

    def _partitions(self) -> list[TopicPartition]:
        if self._places is None:
            found = self._consumer.list_topics(self._topic, timeout=self._timeout_s).topics[self._topic]
            if found.error is not None:
                raise BrokerError(f"topic {self._topic} cannot be read: {found.error}")
            self._places = [TopicPartition(self._topic, p) for p in sorted(found.partitions)]
        return self._places
