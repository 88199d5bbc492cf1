"""How far each role's group is behind the topics it reads."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from ..schemas.topics import COMMANDS, LABELS, PREDICTIONS, TRIGGERS, VITALS, Topic
from ..streams.connection import Connection

GROUP_TOPICS: dict[str, tuple[Topic, ...]] = {
    "join": (PREDICTIONS, LABELS),
    "monitor": (VITALS,),
    "trainer": (TRIGGERS, COMMANDS),
}
_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Lag:
    """``behind`` counts offsets, transaction markers included, so 1 or 2 per partition can remain at rest."""

    group: str
    topic: str
    partition: int
    committed: int | None
    end: int

    @property
    def behind(self) -> int:
        return max(0, self.end - (self.committed or 0))


def read_lag(connection: Connection) -> list[Lag]:
    """Raises KafkaException when the cluster cannot be reached."""
    admin = AdminClient(connection.client())
    existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    lags: list[Lag] = []
    for group, topics in GROUP_TOPICS.items():
        names = [connection.topic(topic) for topic in topics]
        partitions = [
            TopicPartition(name, partition)
            for name in names
            if name in existing
            for partition in existing[name].partitions
        ]
        if not partitions:
            continue
        committed = _committed(admin, connection.group(group), partitions)
        ends = cast(
            "dict[TopicPartition, Future[ListOffsetsResultInfo]]",
            admin.list_offsets(dict.fromkeys(partitions, OffsetSpec.latest())),
        )
        for where, future in ends.items():
            end = future.result().offset
            lags.append(
                Lag(group, where.topic, where.partition, committed.get((where.topic, where.partition)), end)
            )
    return lags


def _committed(
    admin: AdminClient, group: str, partitions: list[TopicPartition]
) -> dict[tuple[str, int], int]:
    request = ConsumerGroupTopicPartitions(group, partitions)
    futures = cast(
        "dict[str, Future[ConsumerGroupTopicPartitions]]", admin.list_consumer_group_offsets([request])
    )
    try:
        answer = futures[group].result(timeout=_TIMEOUT_S)
    except KafkaException:  # a group nobody has used yet has no offsets: everything is still ahead of it
        return {}
    found = cast("list[TopicPartition]", answer.topic_partitions)
    return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}
