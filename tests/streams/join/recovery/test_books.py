"""What a start makes of books that do not fit the state, and of offsets that come without books."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from driftloop.infra.cluster.books import read_books
from driftloop.infra.doctor.books import check_books
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.join.committed import offsets_of, position_of
from driftloop.streams.join.shell import GROUP
from driftloop.streams.join.state.position import Position
from driftloop.streams.join.stats import JoinStats
from driftloop.streams.kafka.connection import Connection

from tests.support.join.kafka import (
    Feed,
    Made,
    ThreadedJoiner,
    assert_books,
    assert_exactly,
    joiner_process,
    wait_for_outcomes,
)
from tests.support.waiting import wait_until

INPUTS = (PREDICTIONS, LABELS)


class CommittedPositions:
    """What the joiner's group has committed, for a test to read and to change."""

    def __init__(self, kafka: Connection) -> None:
        self._admin, self._kafka = AdminClient(kafka.client()), kafka
        self._names = {topic: kafka.topic(topic) for topic in INPUTS}

    def positions(self) -> dict[int, Position]:
        asked = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self._kafka.group(GROUP))]
        )
        (answer,) = asked.values()
        found = {(one.topic, one.partition): one for one in answer.result(30).topic_partitions}
        positions = {n: position_of(*(found[self._names[topic], n] for topic in INPUTS)) for n in (0, 1)}
        return {number: position for number, position in positions.items() if position is not None}

    def write(self, changed: Callable[[Position], Position], *, metadata: bool = True) -> None:
        """Commit other positions, as a person does with a tool, or a joiner with a defect."""
        places = [
            place
            for number, position in self.positions().items()
            for place in offsets_of(self._names, number, changed(position))
        ]
        if not metadata:
            places = [TopicPartition(one.topic, one.partition, one.offset) for one in places]
        wait_until(lambda: self._written(places), "the group to be empty")

    def _written(self, places: list[TopicPartition]) -> bool:
        request = ConsumerGroupTopicPartitions(self._kafka.group(GROUP), places)
        (altered,) = self._admin.alter_consumer_group_offsets([request]).values()
        try:
            return all(place.error is None for place in altered.result(30).topic_partitions)
        except KafkaException:  # it has members still
            return False


def waiting(predictions: int, read: int) -> Callable[[Position], Position]:
    """Change how many predictions the books of each partition say are pending and were read."""

    def changed(position: Position) -> Position:
        assert position.books is not None
        account = position.books.predictions
        account = account._replace(pending=account.pending + predictions, read=account.read + read)
        return position._replace(books=position.books._replace(predictions=account))

    return changed


def run(kafka: Connection, folder: Path) -> JoinStats:
    """Restore both partitions, join what there is, and stop; return what the joiner said just before."""
    running = ThreadedJoiner(kafka, folder)
    wait_until(lambda: len(running.stats.books) == 2 and running.stats.lag == 0, "both partitions")
    wait_for_outcomes(kafka)
    said = replace(running.stats, books=dict(running.stats.books))
    running.end()
    return said


def joined(kafka: Connection, folder: Path, feed: Feed, ids: int) -> Made:
    """Feed so many ids to a joiner of its own process; return what it made."""
    feed.mixture(ids)
    with joiner_process(kafka, folder):
        return wait_for_outcomes(kafka)


def faults(kafka: Connection) -> list[str]:
    return [finding.what for finding in check_books(kafka) if finding.level == "fault"]


def test_offsets_set_by_hand_to_where_they_are_open_the_books_again_and_seqs_go_on(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=21)
    joined(kafka, tmp_path, feed, 100)
    offsets = CommittedPositions(kafka)
    before = offsets.positions()
    offsets.write(lambda position: position, metadata=False)
    assert read_books(kafka) == {}
    assert_exactly(joined(kafka, tmp_path, feed, 100))
    for number, after in offsets.positions().items():
        assert before[number].books is not None
        assert after.books is not None
        assert after.books.difference == (0, 0)
        pending = before[number].books.predictions.pending
        assert after.books.predictions.read == pending + after.predictions - before[number].predictions
    assert faults(kafka) == []


def test_a_state_that_is_not_what_was_committed_is_rebuilt_from_the_log(
    kafka: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Feed(kafka, seed=22)
    joined(kafka, tmp_path, feed, 100)
    offsets = CommittedPositions(kafka)
    # Three predictions were lost: read and committed as pending, but in no state.
    offsets.write(waiting(3, 3))
    assert faults(kafka) == []
    with caplog.at_level(logging.ERROR):
        stats = run(kafka, tmp_path)
    assert {one.source for one in stats.restores.values()} == {"log"}
    assert "discarded" in caplog.text
    assert [books.difference for books in stats.books.values()] == [(3, 0), (3, 0)]
    # It joins on, nothing is emitted again, and the difference stays to be seen.
    feed.mixture(100)
    stats = run(kafka, tmp_path)
    assert {one.source for one in stats.restores.values()} == {"disk"}
    assert_exactly(wait_for_outcomes(kafka))
    assert [books.difference for books in read_books(kafka).values()] == [(3, 0), (3, 0)]
    first, second = faults(kafka)
    assert first.startswith("partition 0: predictions: ")
    assert "3 in no class" in first
    assert second.startswith("partition 1: predictions: ")
    # A person who has looked into it opens the books again.
    offsets.write(lambda position: position, metadata=False)
    feed.mixture(10)
    run(kafka, tmp_path)
    assert faults(kafka) == []


def test_books_that_do_not_balance_are_right_again_once_the_state_is(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=23)
    joined(kafka, tmp_path, feed, 100)
    # A state lost two predictions, and the books show it; it was removed.
    CommittedPositions(kafka).write(waiting(-2, 0))
    assert len(faults(kafka)) == 2
    made = joined(kafka, tmp_path / "another", feed, 50)
    assert_exactly(made)
    assert_books(kafka, made)
    assert faults(kafka) == []


def test_what_another_version_or_another_tool_committed_is_taken_as_offsets_without_books(
    kafka: Connection,
) -> None:
    name = {topic: kafka.topic(topic) for topic in INPUTS}
    position = Position(5, 7, 3, 100, 200)
    earlier = orjson.dumps(position.numbers()[:8]).decode()
    for metadata, wanted in (
        (earlier, position._replace(books=None)),
        ("note of a person", Position(5, 7, books=None)),
        ("[1, 2, 3]", Position(5, 7, books=None)),
        ("5", Position(5, 7, books=None)),
    ):
        both = (
            TopicPartition(name[PREDICTIONS], 0, 5, metadata=metadata),
            TopicPartition(name[LABELS], 0, 7, metadata=metadata),
        )
        assert position_of(*both) == wanted
