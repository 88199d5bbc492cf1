"""How far each role's group is behind the topics it reads."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from ...schemas.errors import BrokerError
from ...schemas.topics import COMMANDS, LABELS, PREDICTIONS, TRIGGERS, VITALS, Topic
from ...streams.kafka.connection import Connection
from ...streams.kafka.offsets import LogOffsets

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
    """Raise BrokerError if the cluster does not answer, or not to this principal."""
    offsets = LogOffsets(connection, timeout_s=_TIMEOUT_S)
    admin = AdminClient(connection.client())
    try:
        existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise BrokerError(f"no Kafka at {connection.bootstrap_servers}: {error.args[0]}") from error
    lags: list[Lag] = []
    for group, topics in GROUP_TOPICS.items():
        known = [topic for topic in topics if connection.topic(topic) in existing]
        ends = {
            (connection.topic(topic), partition): end
            for topic in known
            for partition, end in offsets.ends(
                topic, sorted(existing[connection.topic(topic)].partitions)
            ).items()
        }
        if not ends:
            continue
        committed = group_offsets(admin, connection.group(group), [TopicPartition(*place) for place in ends])
        lags += [
            Lag(group, *place, committed[place].offset if place in committed else None, end)
            for place, end in ends.items()
        ]
    return lags


def group_offsets(
    admin: AdminClient, group: str, partitions: list[TopicPartition] | None = None
) -> dict[tuple[str, int], TopicPartition]:
    """Return what a group has committed of these partitions, or of all. Raises BrokerError."""
    request = ConsumerGroupTopicPartitions(group, partitions)
    futures = cast(
        "dict[str, Future[ConsumerGroupTopicPartitions]]", admin.list_consumer_group_offsets([request])
    )
    try:
        answer = futures[group].result(timeout=_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:  # it was never used
            return {}
        raise BrokerError(f"the offsets of group {group} cannot be read: {error.args[0]}") from error
    found = cast("list[TopicPartition]", answer.topic_partitions)
    return {(p.topic, p.partition): p for p in found if p.offset >= 0}
