"""Create and verify the catalogue's topics; name every difference, and never repartition data topics."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from ...schemas.errors import BrokerError, TopicError
from ...schemas.topics import CATALOGUE, CO_PARTITIONED, Topic
from ...streams.kafka.connection import Connection
from ...streams.kafka.retry import Unanswered, retry

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the cluster differs from the catalogue."""

    topic: str
    what: str
    found: str
    wanted: str
    refused: bool = False

    def __str__(self) -> str:
        line = f"{self.topic}: {self.what} is {self.found}, wanted {self.wanted}"
        return (
            f"{line} (refused: needs the drained migration in docs/operations.md)" if self.refused else line
        )


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """What was missing or different; ``applied``: it has been created and corrected."""

    created: tuple[str, ...]
    differences: tuple[Difference, ...]
    applied: bool


def inspect_topics(connection: Connection, *, data_partitions: int, model_partitions: int) -> TopicsReport:
    """Compare the cluster with the catalogue and change nothing."""
    admin = AdminClient(connection.client())
    missing, differences = _compare(admin, connection, data_partitions, model_partitions)
    return TopicsReport(tuple(connection.topic(t) for t in missing), tuple(differences), applied=False)


def apply_topics(
    connection: Connection, *, data_partitions: int, model_partitions: int, replication: int = -1
) -> TopicsReport:
    """Create what is missing and correct what differs.

    Raises TopicError, before anything is changed, if the partition count of predictions, labels or
    outcomes differs: pending pairs would be split. ``replication`` -1 takes the broker's default.
    """
    admin = AdminClient(connection.client())
    missing, differences = _compare(admin, connection, data_partitions, model_partitions)
    refused = [difference for difference in differences if difference.refused]
    if refused:
        raise TopicError("; ".join(str(difference) for difference in refused))
    _create(admin, connection, missing, data_partitions, model_partitions, replication)
    _correct(admin, differences)
    return TopicsReport(tuple(connection.topic(t) for t in missing), tuple(differences), applied=True)


def _compare(
    admin: AdminClient, connection: Connection, data_partitions: int, model_partitions: int
) -> tuple[list[Topic], list[Difference]]:
    try:
        existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise BrokerError(
            f"cannot reach Kafka at {connection.bootstrap_servers}: {error.args[0]}; check the address, "
            "or start one with `driftloop broker`"
        ) from error
    missing = [topic for topic in CATALOGUE if connection.topic(topic) not in existing]
    present = [topic for topic in CATALOGUE if connection.topic(topic) in existing]
    differences: list[Difference] = []
    for topic in present:
        found = len(existing[connection.topic(topic)].partitions)
        wanted = data_partitions if topic.plane == "data" else model_partitions
        if found != wanted:
            refused = topic in CO_PARTITIONED or found > wanted or topic.plane == "model"
            differences.append(
                Difference(connection.topic(topic), "partitions", str(found), str(wanted), refused)
            )
    differences.extend(_config_differences(admin, connection, present))
    return missing, differences


def _config_differences(
    admin: AdminClient, connection: Connection, topics: Iterable[Topic]
) -> list[Difference]:
    by_name = {connection.topic(topic): topic for topic in topics}
    return [
        Difference(name, key, str(found[key]), wanted)
        for name, found in read_configs(admin, ResourceType.TOPIC, list(by_name)).items()
        for key, wanted in by_name[name].config().items()
        if str(found[key]) != wanted
    ]


def read_configs(
    admin: AdminClient, kind: ResourceType, names: list[str], timeout_s: float = _TIMEOUT_S
) -> dict[str, dict[str, str | None]]:
    """Name → configuration of topics or brokers. Raises KafkaException."""
    if not names:
        return {}
    described = cast(
        "dict[ConfigResource, Future[dict[str, ConfigEntry]]]",
        admin.describe_configs([ConfigResource(kind, name) for name in names], request_timeout=timeout_s),
    )
    return {
        str(resource.name): {name: entry.value for name, entry in future.result().items()}
        for resource, future in described.items()
    }


def _create(
    admin: AdminClient,
    connection: Connection,
    topics: list[Topic],
    data_partitions: int,
    model_partitions: int,
    replication: int,
) -> None:
    if not topics:
        return
    new = [
        NewTopic(
            connection.topic(topic),
            num_partitions=data_partitions if topic.plane == "data" else model_partitions,
            replication_factor=replication,
            config=topic.config(),
        )
        for topic in topics
    ]
    created = cast("dict[str, Future[None]]", admin.create_topics(new, operation_timeout=_TIMEOUT_S))
    for name, future in created.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
                raise TopicError(f"topic {name} cannot be created: {error.args[0].str()}") from error
    _await_visible(admin, {topic.topic for topic in new})


def _await_visible(admin: AdminClient, names: set[str]) -> None:
    """Wait for the brokers' metadata, which a created topic reaches a moment later."""

    def ask() -> None:
        known = admin.list_topics(timeout=_TIMEOUT_S).topics
        leaders = {name: [part.leader for part in topic.partitions.values()] for name, topic in known.items()}
        waiting = sorted(name for name in names if min(leaders.get(name) or [-1]) < 0)
        if waiting:
            raise Unanswered(f"created, but no broker leads them: {', '.join(waiting)}; try again")

    try:
        retry(ask, timeout_s=_TIMEOUT_S, pause_s=0.02)
    except Unanswered as error:
        raise TopicError(str(error)) from error


def _correct(admin: AdminClient, differences: list[Difference]) -> None:
    changes: dict[str, list[ConfigEntry]] = {}
    for difference in differences:
        if difference.what == "partitions":
            wanted = [NewPartitions(difference.topic, int(difference.wanted))]
            more = cast("dict[str, Future[None]]", admin.create_partitions(wanted))
            more[difference.topic].result()
        else:
            entry = ConfigEntry(
                difference.what, difference.wanted, incremental_operation=AlterConfigOpType.SET
            )
            changes.setdefault(difference.topic, []).append(entry)
    resources = [
        ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        for name, entries in changes.items()
    ]
    if resources:
        altered = cast("dict[ConfigResource, Future[None]]", admin.incremental_alter_configs(resources))
        for future in altered.values():
            future.result()
