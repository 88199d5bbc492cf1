"""Reading in step: nothing is lost or reordered, nothing waits for what does not come, little runs ahead."""

from __future__ import annotations

import itertools
import random
import secrets
from pathlib import Path

import pytest
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import LABELS, PREDICTIONS, Topic
from driftloop.streams.join.config import JoinStats, JoinTuning
from driftloop.streams.join.pacing import Pacing
from driftloop.streams.kafka.connection import Connection
from hypothesis import given
from hypothesis import strategies as st

from tests.support.join.kafka import Feed, Running, assert_exactly, read_made
from tests.support.join.world import label, prediction
from tests.support.waiting import wait_until

TOPICS = (PREDICTIONS, LABELS)
Log = list[tuple[int, int]]  # append time and offset


def log_of(gaps: list[int]) -> Log:
    return [(ms, offset) for offset, ms in enumerate(itertools.accumulate(gaps))]


gaps = st.lists(st.integers(0, 5), max_size=40)


@given(gaps, gaps, st.integers(1, 10), st.randoms(use_true_random=False))
def test_in_order_whole_and_never_ahead_of_what_is_known_to_come(
    predictions: list[int], labels: list[int], most: int, draw: random.Random
) -> None:
    logs = {PREDICTIONS: log_of(predictions), LABELS: log_of(labels)}
    fetched = dict.fromkeys(TOPICS, 0)
    passed: dict[Topic, Log] = {topic: [] for topic in TOPICS}
    pacing = Pacing[tuple[int, int]](lambda record: record[0])
    while any(len(passed[topic]) < len(logs[topic]) for topic in TOPICS):
        new: dict[Topic, Log] = {}
        for topic in TOPICS:
            count = draw.randint(0, min(7, len(logs[topic]) - fetched[topic]))
            if count:
                new[topic] = logs[topic][fetched[topic] : fetched[topic] + count]
                fetched[topic] += count
        more = {topic: fetched[topic] < len(logs[topic]) for topic in TOPICS}
        waiting = {topic for topic in TOPICS if pacing.held(topic) or topic in new}
        got = pacing.pass_on(new, more, most)
        if len(waiting) == 2 or (waiting and not any(more.values())):
            assert got, "both topics never wait for each other, nor for what does not come"
        for topic, records in got.items():
            assert 0 < len(records) <= most
            passed[topic] += records
            other = LABELS if topic is PREDICTIONS else PREDICTIONS
            newest_ms = max((ms for ms, _ in logs[other][: fetched[other]]), default=0)
            assert not more[other] or records[-1][0] <= newest_ms
    assert passed == logs
    assert sum(map(pacing.held, TOPICS)) == 0


def test_what_is_held_is_forgotten_when_both_topics_are_sought_anew() -> None:
    pacing = Pacing[int](lambda ms: ms)
    assert pacing.pass_on({LABELS: [5, 6]}, dict.fromkeys(TOPICS, True), 10) == {}
    assert pacing.held(LABELS) == 2
    pacing.clear()
    assert pacing.pass_on({}, dict.fromkeys(TOPICS, False), 10) == {}


@pytest.mark.integration
def test_small_labels_wait_for_large_predictions_and_all_are_joined_once(
    topics: Connection, tmp_path: Path
) -> None:
    """Labels of some bytes, predictions of kilobytes: unpaced, labels would all be read at once."""
    apply_deployment(topics, Deployment(models={"m": ModelSpec()}))
    feed = Feed(topics)
    for number in range(3_000):
        event = prediction(f"id-{number}", "x")
        feed.event(PREDICTIONS, event | {"features": {"noise": secrets.token_hex(2_500)}})
        feed.event(LABELS, label(f"id-{number}", "x" if number % 3 else "y"))
    feed.flush()
    stats, held = JoinStats(), [0]
    running = Running(
        topics,
        tmp_path,
        stats=stats,
        tuning=JoinTuning(max_batch=1_000, backlog=100, max_held=500),
        observe=lambda _step: held.append(stats.held),
    )
    wait_until(lambda: stats.outcomes >= 3_000 or running.ended(), 60)
    running.end()
    assert running.error is None
    assert stats.pauses > 0
    assert 500 < max(held) <= 2 * (500 + 1_000), "of two partitions, whatever there is to read"
    assert stats.held == 0
    made = read_made(topics)
    assert_exactly(made)
    assert len(made.outcomes) == 3_000
