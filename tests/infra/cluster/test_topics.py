"""The catalogue on a real cluster: created, verified, corrected, never repartitioned in silence."""

from __future__ import annotations

from functools import partial

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from driftloop.infra.cluster import topics as topics_admin
from driftloop.infra.cluster.topics import apply_topics, inspect_topics
from driftloop.schemas.errors import BrokerError, TopicError
from driftloop.schemas.topics import CATALOGUE, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.support.topic_settings import alter
from tests.support.waiting import wait_until

inspect_two = partial(inspect_topics, data_partitions=2, model_partitions=2)


def test_topics_are_created_once_and_then_found_in_order(connection: Connection) -> None:
    first = apply_topics(connection, data_partitions=2, model_partitions=3)
    assert len(first.created) == len(CATALOGUE)
    again = apply_topics(connection, data_partitions=2, model_partitions=3)
    assert (again.created, again.differences) == ((), ())


def test_a_changed_setting_is_named_and_corrected(topics: Connection) -> None:
    name = topics.topic(PREDICTIONS)
    alter(topics, PREDICTIONS, "retention.ms", "1000")
    found = wait_until(lambda: inspect_two(topics).differences)
    assert [(d.topic, d.what, d.found) for d in found] == [(name, "retention.ms", "1000")]
    apply_topics(topics, data_partitions=2, model_partitions=2)
    wait_until(lambda: not inspect_two(topics).differences)


def test_the_partition_count_of_data_topics_is_never_changed(topics: Connection) -> None:
    with pytest.raises(TopicError, match=r"predictions: partitions is 2, wanted 5 \(refused"):
        apply_topics(topics, data_partitions=5, model_partitions=2)
    assert inspect_two(topics).differences == ()


def test_a_topic_somebody_made_by_hand_is_checked_like_any_other(connection: Connection) -> None:
    admin = AdminClient(connection.client())
    name = connection.topic(PREDICTIONS)
    admin.create_topics([NewTopic(name, 2, 1)])[name].result()
    wait_until(lambda: len(inspect_two(connection).created) == len(CATALOGUE) - 1)
    assert any(d.topic == name and d.what == "retention.ms" for d in inspect_two(connection).differences)


def test_an_unreachable_cluster_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Connection("127.0.0.1:1", "x.", {"socket.connection.setup.timeout.ms": "1000"})
    monkeypatch.setattr(topics_admin, "_TIMEOUT_S", 1.0)
    with pytest.raises(BrokerError, match=r"cannot reach Kafka at 127\.0\.0\.1:1"):
        inspect_topics(nowhere, data_partitions=1, model_partitions=1)
