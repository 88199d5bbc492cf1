"""A joiner whose transaction is aborted, or may be, and one whose group has expelled it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.join.batch_writer import BatchWriter
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.shell import GROUP
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.transactions import Aborted

from tests.support.join.kafka import (
    Feed,
    ThreadedJoiner,
    assert_books,
    assert_exactly,
    joiner_process,
    read_made,
    wait_for_outcomes,
)
from tests.support.waiting import wait_until


def test_a_transaction_that_is_aborted_leaves_no_outcome_and_no_vitals(
    kafka: Connection, tmp_path: Path
) -> None:
    """Another process takes the instance's place in the group while its transaction is open."""
    Feed(kafka, seed=3).mixture(100)
    usurper = Consumer(kafka.consumer(GROUP, group_instance_id="j0"))

    def usurp(step: str) -> None:
        if step == "produced":
            usurper.subscribe([kafka.topic(PREDICTIONS), kafka.topic(LABELS)])
            wait_until(lambda: usurper.poll(0.1) is not None or bool(usurper.assignment()))

    running = ThreadedJoiner(kafka, tmp_path, observe=usurp)
    wait_until(lambda: running.stats.aborts > 0, "an abort")
    running.end()
    usurper.close()
    made = read_made(kafka)
    assert (made.outcomes, made.vitals, running.stats.outcomes) == ([], [], 0)
    with joiner_process(kafka, tmp_path):
        made = wait_for_outcomes(kafka)
    assert_exactly(made)
    assert_books(kafka, made)


@pytest.mark.parametrize("was_committed", [False, True])
def test_after_an_abort_of_an_unknown_transaction_the_groups_offsets_decide(
    kafka: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_committed: bool
) -> None:
    """A coordinator that died may not have known it. If a late request ended it, memory is behind the log."""
    write, written = BatchWriter.write, itertools.count()

    def write_unsurely(writer: BatchWriter, *batch: Any) -> None:
        if next(written) != 1:
            return write(writer, *batch)
        if was_committed:
            write(writer, *batch)
        raise Aborted("on cue", unknown=True)

    monkeypatch.setattr(BatchWriter, "write", write_unsurely)
    Feed(kafka, seed=5).mixture(300)
    running = ThreadedJoiner(kafka, tmp_path, tuning=JoinTuning(max_batch=100))
    if was_committed:
        wait_until(running.ended, "it ends")
        assert "a request came late" in str(running.error)
        running = ThreadedJoiner(kafka, tmp_path)
    made = wait_for_outcomes(kafka)
    running.end()
    assert_exactly(made)
    assert_books(kafka, made)


class RevokingConsumer(Consumer):
    """Loses its partitions in the fetch that says it is expelled, as after a session that timed out."""

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.revoke = callbacks["on_revoke"]
        super().subscribe(topics, **callbacks)

    def consume(self, *size: int, timeout: float) -> list[Message]:
        messages = super().consume(*size, timeout=timeout)
        if any(message.topic() is None for message in messages):
            self.revoke(self, [])
        return messages


@pytest.mark.parametrize("consumer", [Consumer, RevokingConsumer])
def test_a_joiner_that_its_group_has_expelled_ends(
    kafka: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, consumer: type[Consumer]
) -> None:
    monkeypatch.setattr("driftloop.streams.join.shell.Consumer", consumer)
    running = ThreadedJoiner(kafka, tmp_path)
    wait_until(lambda: running.stats.partitions > 0)
    rival = Consumer(kafka.consumer(GROUP, group_instance_id="j0"))
    rival.subscribe([kafka.topic(PREDICTIONS)])
    wait_until(lambda: running.ended() or (rival.poll(0.1) and False), "it ends")
    rival.close()
    assert "Kafka cannot be read" in str(running.error)
