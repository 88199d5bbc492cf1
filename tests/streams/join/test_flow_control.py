"""Flow control: nothing is lost or reordered, nothing waits for what does not come, little runs ahead."""

from __future__ import annotations

import itertools
import random
import secrets
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.model import Deployment, Join, ModelSpec
from driftloop.schemas.topics import LABELS, PREDICTIONS, Topic
from driftloop.streams.join import shell
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.flow_control import WatermarkAlignment
from driftloop.streams.join.state.position import INPUTS, Position
from driftloop.streams.join.stats import JoinStats
from driftloop.streams.kafka.connection import Connection
from hypothesis import given
from hypothesis import strategies as st

from tests.support.join.kafka import Feed, Made, ThreadedJoiner, assert_exactly, joiner_process, read_made
from tests.support.join.world import keyed, label, prediction
from tests.support.waiting import wait_until

PAIRS = 3_000
Log = list[tuple[int, int]]  # append time and offset


def log_of(gaps: list[int]) -> Log:
    return [(ms, offset) for offset, ms in enumerate(itertools.accumulate(gaps))]


def aligned(max_batch: int = 10) -> WatermarkAlignment[tuple[int, int]]:
    return WatermarkAlignment(
        lambda record: record[1], lambda record: record[0], Position(), backlog=0, max_batch=max_batch
    )


gaps = st.lists(st.integers(0, 5), max_size=40)


@given(gaps, gaps, st.integers(1, 10), st.randoms(use_true_random=False))
def test_in_order_whole_and_never_ahead_of_what_is_known_to_come(
    predictions: list[int], labels: list[int], most: int, draw: random.Random
) -> None:
    logs = {PREDICTIONS: log_of(predictions), LABELS: log_of(labels)}
    fetched = dict.fromkeys(INPUTS, 0)
    released: dict[Topic, Log] = {topic: [] for topic in INPUTS}
    alignment = aligned(max_batch=most)
    ends = {topic: len(log) for topic, log in logs.items()}
    while any(len(released[topic]) < len(logs[topic]) for topic in INPUTS):
        for topic in INPUTS:
            count = draw.randint(0, min(7, ends[topic] - fetched[topic]))
            if count:
                again = draw.randint(0, fetched[topic])
                alignment.receive(topic, logs[topic][again : fetched[topic] + count], now=0.0)
                fetched[topic] += count
        more = {topic: fetched[topic] < ends[topic] for topic in INPUTS}
        waiting = {topic for topic in INPUTS if alignment.held(topic)}
        got = alignment.release(ends, now=0.0)
        if len(waiting) == 2 or (waiting and not any(more.values())):
            assert got, "both topics never wait for each other, nor for what does not come"
        for topic, records in got.items():
            assert 0 < len(records) <= most
            released[topic] += records
            other = LABELS if topic is PREDICTIONS else PREDICTIONS
            newest_ms = max((ms for ms, _ in logs[other][: fetched[other]]), default=0)
            assert not more[other] or records[-1][0] <= newest_ms
    assert released == logs
    assert sum(map(alignment.held, INPUTS)) == 0


def test_a_topic_that_ended_or_fell_silent_is_not_waited_for() -> None:
    log, ends = log_of([5, 1, 1]), {PREDICTIONS: 9, LABELS: 3}
    for ended, now in ((True, 0.0), (False, 1.0)):
        alignment = aligned()
        alignment.receive(LABELS, log, now=0.0)
        assert alignment.release(ends, now=0.0) == {}
        if ended:
            alignment.saw_end(PREDICTIONS, 9)
        assert alignment.release(ends, now) == {LABELS: log}


def test_what_is_held_is_forgotten_when_both_topics_are_read_again() -> None:
    alignment, log = aligned(), log_of([5, 1])
    alignment.receive(LABELS, log, now=0.0)
    assert alignment.release({PREDICTIONS: 1, LABELS: 2}, now=0.0) == {}
    assert alignment.held(LABELS) == 2
    alignment.restart(Position(labels=1))
    assert alignment.release({PREDICTIONS: 0, LABELS: 2}, now=0.0) == {}
    alignment.receive(LABELS, log, now=0.0)
    assert alignment.release({PREDICTIONS: 0, LABELS: 2}, now=0.0) == {LABELS: log[1:]}


class LabelsFirst(Consumer):
    """Hands on a prediction of each partition, then all labels, then the other predictions.

    So labels are far ahead whatever the machine's speed. What was fetched of a paused topic stays here.
    """

    labels = ""  # the topic's name

    def __init__(self, config: dict[str, str | int | float | bool]) -> None:
        super().__init__(config)
        self._fetched: list[Message] = []
        self._ordered = False
        self._paused: set[TopicPartition] = set()

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        self._fetched += super().consume(PAIRS, min(timeout, 0.05))
        if not self._ordered and not self._order():
            return []
        handed, kept = [], []
        for message in self._fetched:
            ready = len(handed) < num_messages and place_of(message) not in self._paused
            (handed if ready else kept).append(message)
        self._fetched = kept
        return handed

    def _order(self) -> bool:
        labels = [message for message in self._fetched if message.topic() == self.labels]
        predictions = [message for message in self._fetched if message.topic() != self.labels]
        first = {message.partition(): message for message in reversed(predictions)}
        self._ordered = len(first) == 2 and sum(label.error() is None for label in labels) == PAIRS
        if self._ordered:
            rest = [message for message in predictions if message is not first[message.partition()]]
            self._fetched = [*first.values(), *labels, *rest]
        return self._ordered

    def seek(self, partition: TopicPartition) -> None:
        self._fetched = [message for message in self._fetched if place_of(message) != partition]
        super().seek(partition)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._paused |= set(partitions)
        super().pause(partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= set(partitions)
        super().resume(partitions)


def place_of(message: Message) -> TopicPartition:
    return TopicPartition(message.topic() or "", message.partition() or 0)


def test_small_labels_wait_for_large_predictions_and_all_are_joined_once(
    kafka: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of some bytes, predictions of kilobytes: all labels are there before the second prediction."""
    feed = Feed(kafka)
    for number in range(PAIRS):
        event = prediction(f"id-{number}", "x")
        feed.event(PREDICTIONS, event | {"features": {"noise": secrets.token_hex(2_500)}})
    feed.flush()
    for number in range(PAIRS):
        feed.event(LABELS, label(f"id-{number}", "x" if number % 3 else "y"))
    feed.flush()
    monkeypatch.setattr(LabelsFirst, "labels", kafka.topic(LABELS))
    monkeypatch.setattr(shell, "Consumer", LabelsFirst)
    stats, held = JoinStats(), [0]
    running = ThreadedJoiner(
        kafka,
        tmp_path,
        stats=stats,
        tuning=JoinTuning(max_batch=1_000, backlog=100, max_held=500),
        observe=lambda _step: held.append(stats.held),
    )
    wait_until(lambda: stats.outcomes >= PAIRS or running.ended())
    running.end()
    assert running.error is None
    assert stats.pauses > 0
    assert 500 < max(held) <= 2 * (500 + 1_000), "of two partitions, whatever there is to read"
    assert stats.held == 0
    made = read_made(kafka)
    assert_exactly(made)
    assert len(made.outcomes) == PAIRS


def ids_of(partition: int) -> Iterator[str]:
    """Ids whose records belong to this one of two partitions."""
    return (name for name in map(str, itertools.count()) if partition_of(name, 2) == partition)


def test_a_topic_that_an_open_transaction_holds_back_is_not_idle(kafka: Connection, tmp_path: Path) -> None:
    """The other partition goes on for far longer than the horizons; what is held back joins all the same."""
    join = Join(horizon=2_000, early_horizon=2_000, correction_window=60_000, clock_skew=0)
    apply_deployment(kafka, Deployment(join=join, models={"m": ModelSpec()}))
    feed = Feed(kafka)
    other = Producer(kafka.transactional("other", transaction_timeout_ms=120_000))
    other.init_transactions()
    other.begin_transaction()
    elsewhere = ids_of(1)
    early, late, never, foreign, alone = itertools.islice(ids_of(0), 5)
    feed.event(LABELS, label(early, "x"))
    feed.event(LABELS, label(never, "x"))
    feed.event(PREDICTIONS, prediction(late, "x"))
    feed.flush()
    for topic, event in ((PREDICTIONS, prediction(alone, "x")), (LABELS, label(foreign, "x"))):
        other.produce(kafka.topic(topic), keyed(event)[1], keyed(event)[0], partition=0)
    assert other.flush(60) == 0
    feed.event(PREDICTIONS, prediction(early, "x"))
    feed.event(LABELS, label(late, "x"))
    feed.flush()

    def joined_elsewhere() -> Made:
        """Send one more pair; return what there is once it is joined."""
        name = next(elsewhere)
        feed.event(PREDICTIONS, prediction(name, "x"))
        feed.event(LABELS, label(name, "x"))
        feed.flush()

        def with_it() -> Made | None:
            made = read_made(kafka)
            return made if any(outcome.prediction_id == name for _, outcome in made.outcomes) else None

        return wait_until(with_it, f"the outcome of {name}")

    def log_ms(made: Made) -> int:
        return max(record.append_ms for record in made.predictions)

    with joiner_process(kafka, tmp_path):
        until_ms = log_ms(joined_elsewhere()) + 3 * join.horizon
        made = wait_until(lambda: made if log_ms(made := joined_elsewhere()) > until_ms else None)
        assert made.dead_letters == []
        other.commit_transaction(60)
        made = wait_until(
            lambda: made if len((made := joined_elsewhere()).dead_letters) > 1 else None,
            "what waits in vain has expired",
        )
    assert {outcome.prediction_id for _, outcome in made.outcomes} >= {early, late}
    refused = [orjson.loads(b64decode(one.value_b64 or ""))["prediction_id"] for one in made.dead_letters]
    assert sorted(refused) == sorted([never, foreign])
