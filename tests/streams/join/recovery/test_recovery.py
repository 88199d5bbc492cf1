"""The joiner stops in time, reports data loss, and is back soon."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from driftloop.infra.status.join_status import read_join_progress
from driftloop.schemas.errors import StateError
from driftloop.schemas.topics import LABELS, OUTCOMES, PREDICTIONS
from driftloop.streams.join.shell import GROUP
from driftloop.streams.kafka.connection import Connection

from tests.support.join.kafka import (
    Feed,
    ThreadedJoiner,
    read_made,
    read_topic,
    start_joiner,
    wait_for_outcomes,
)
from tests.support.join.world import label, prediction
from tests.support.stopwatch import stopped
from tests.support.waiting import wait_until


def ends(kafka: Connection, topic: str, isolation: IsolationLevel) -> list[int]:
    admin = AdminClient(kafka.client())  # a client that is let go of answers nothing any more
    asked = admin.list_offsets(
        {TopicPartition(topic, p): OffsetSpec.latest() for p in (0, 1)}, isolation_level=isolation
    )
    return [found.result(30).offset for found in asked.values()]


def reset_offsets(admin: AdminClient, kafka: Connection, topic: str, offsets: list[int]) -> bool:
    places = [TopicPartition(topic, p, offsets[p]) for p in (0, 1)]
    asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(kafka.group(GROUP), places)])
    (altered,) = asked.values()
    try:
        return all(place.error is None for place in altered.result(30).topic_partitions)
    except KafkaException:  # it has members still
        return False


def test_sigterm_under_load_ends_it_within_five_seconds_and_leaves_nothing_open(
    kafka: Connection, tmp_path: Path
) -> None:
    feed, enough = Feed(kafka), threading.Event()

    def load() -> None:
        while not enough.wait(0.02):
            for _ in range(20):
                name = str(feed.sent)
                feed.event(PREDICTIONS, prediction(name, "x"))
                feed.event(LABELS, label(name, "y"))
            feed.flush()

    def joined() -> list[bytes | None]:
        return [record.key for record in read_topic(kafka, OUTCOMES)]

    feeding = threading.Thread(target=load)
    feeding.start()
    try:
        process = start_joiner(kafka, tmp_path, "j0", "--max-batch", "10000", "--flush-s", "600")
        wait_until(lambda: len(joined()) > 500)
        assert stopped(process) < 5.0
    finally:
        enough.set()
        feeding.join()
    outcomes = kafka.topic(OUTCOMES)
    committed, all_of_it = (
        ends(kafka, outcomes, level)
        for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    )
    assert committed == all_of_it, "a transaction is open"
    running = ThreadedJoiner(kafka, tmp_path)
    found = wait_until(lambda: found if len(found := joined()) >= feed.sent // 2 else None)
    running.end()
    assert len(set(found)) == len(found) == feed.sent // 2
    assert {(one.source, one.records) for one in running.stats.restores.values()} == {("disk", 0)}


@pytest.mark.parametrize("topic", [PREDICTIONS, LABELS], ids=["predictions", "labels"])
def test_data_loss_is_announced_and_not_passed_over(kafka: Connection, tmp_path: Path, topic: object) -> None:
    name = kafka.topic(topic)  # type: ignore[arg-type]
    feed = Feed(kafka, seed=9)
    feed.mixture(50)
    running = ThreadedJoiner(kafka, tmp_path)
    before = len(wait_for_outcomes(kafka).outcomes)
    running.end()
    stood_at = ends(kafka, name, IsolationLevel.READ_UNCOMMITTED)
    feed.mixture(50)
    begins = ends(kafka, name, IsolationLevel.READ_UNCOMMITTED)
    admin = AdminClient(kafka.client())
    for deleted in admin.delete_records([TopicPartition(name, p, begins[p]) for p in (0, 1)]).values():
        deleted.result(30)
    for _ in range(2):  # a supervisor starts it again, and it says so again
        running = ThreadedJoiner(kafka, tmp_path)
        wait_until(running.ended)
        assert isinstance(running.error, StateError)
        assert "retention removed" in str(running.error)
        gone = {p: begins[p] - stood_at[p] for p in (0, 1)}
        assert {lost.partition: lost.missing for lost in running.stats.data_loss} == gone
        reported = read_join_progress(kafka)
        assert {p: (one.phase, one.missing) for p, one in reported.items()} == {
            p: ("data_loss", missing) for p, missing in gone.items()
        }
    assert len(read_made(kafka).outcomes) == before
    # A person decides to go on with what is left.
    wait_until(lambda: reset_offsets(admin, kafka, name, begins), "the group to be empty")
    feed.event(PREDICTIONS, prediction("after", "x"))
    feed.event(LABELS, label("after", "x"))
    feed.flush()
    running = ThreadedJoiner(kafka, tmp_path)
    wait_until(lambda: "after" in {o.prediction_id for _, o in read_made(kafka).outcomes}, "it to go on")
    running.end()
    assert {one.phase for one in read_join_progress(kafka).values()} == {"joining"}
