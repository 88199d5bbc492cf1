"""An admin client: where logs begin and end, and which topics these are."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TopicCollection, TopicPartition

from tests.simulation.client.metadata import ClusterMetadata
from tests.simulation.client.simulated import Simulated


@dataclass(frozen=True)
class _Offset:
    offset: int


@dataclass(frozen=True)
class _Topic:
    topic_id: str


class AdminClient(Simulated):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:
        return self.sim.metadata(topic)

    def describe_topics(
        self, topics: TopicCollection, *, request_timeout: float = 0
    ) -> dict[str, Future[_Topic]]:
        self.world.sleep(self.sim.network.latency() * 2)
        return {name: _done(_Topic(f"id-{name}")) for name in topics.topic_names}

    def list_offsets(
        self, wanted: Mapping[TopicPartition, Any], **_options: Any
    ) -> dict[TopicPartition, Future[_Offset]]:
        self.world.sleep(self.sim.network.latency() * 2)
        return {place: _done(_Offset(self._offset(place, spec._value))) for place, spec in wanted.items()}

    def _offset(self, place: TopicPartition, spec: int) -> int:
        log = self.sim.cluster.logs[place.topic, place.partition]
        if spec == -1:
            return log.end
        return 0 if spec == -2 else log.offset_at(spec)


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
