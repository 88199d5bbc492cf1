"""The joiner on real Kafka: exactly once through aborts, kills, rebalances and lost disks."""

from __future__ import annotations

import base64
import itertools
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.errors import StateError
from driftloop.schemas.joining import JoinProgress
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import JOIN_PROGRESS, LABELS, OUTCOMES, PREDICTIONS, VITALS
from driftloop.streams.join.batch_writer import BatchWriter
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.shell import GROUP
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.kafka.transactions import Aborted

from tests.support.full_disk import MISSING, FullDisk
from tests.support.join.kafka import (
    Feed,
    ThreadedJoiner,
    assert_books,
    assert_exactly,
    joiner_process,
    read_made,
    read_topic,
    start_joiner,
    wait_for_outcomes,
)
from tests.support.join.world import label, prediction
from tests.support.waiting import wait_until


def test_killed_after_every_step_of_a_batch_nothing_is_lost_repeated_or_forked(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka)
    for step in ("read", "processed", "produced", "offsets sent", "committed", "kept", "flushed"):
        feed.mixture(400)
        process = start_joiner(kafka, tmp_path, "j0", "--die", step, "2", "--max-batch", "150")
        assert process.wait(60) == -signal.SIGKILL
    with joiner_process(kafka, tmp_path):
        made = wait_for_outcomes(kafka)
    assert_exactly(made)
    assert_books(kafka, made)


def test_killed_at_any_moment_and_without_its_disk_it_goes_on_where_the_log_stands(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=2)
    for round_number in range(3):
        feed.mixture(300)
        before = len(read_made(kafka).outcomes)  # once it runs, it may be done before they are read
        process = start_joiner(kafka, tmp_path, "j0", "--max-batch", "100")
        wait_until(lambda before=before: len(read_made(kafka).outcomes) > before)
        process.kill()
        process.wait(60)
        if round_number == 1:
            shutil.rmtree(tmp_path)
    with joiner_process(kafka, tmp_path):
        made = wait_for_outcomes(kafka)
    assert_exactly(made)
    assert_books(kafka, made)


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


def test_without_its_disk_it_begins_with_the_newest_whole_checkpoint_and_replays_only_the_rest(
    kafka: Connection, tmp_path: Path
) -> None:
    feed, store = Feed(kafka, seed=14), tmp_path / "artifacts"

    def manifests(partition: int) -> list[Path]:
        return sorted(store.glob(f"_join/*/*/{partition:05d}/*.json"))

    def joined() -> bool:
        made = read_made(kafka)
        return len(made.outcomes) >= len(made.expected().outcomes)

    with joiner_process(
        kafka, tmp_path / "first", "j0", "--store", str(store), "--checkpoint-s", "0.5", "--flush-s", "0.1"
    ):
        for _ in range(2):
            feed.mixture(200)
            before = {number: manifests(number)[-1:] for number in (0, 1)}
            wait_until(joined)
            wait_until(
                lambda before=before: all(manifests(n)[-1:] > before[n] for n in (0, 1)), "checkpoints"
            )
    feed.mixture(50)
    with joiner_process(kafka, tmp_path / "first", "j0"):
        wait_for_outcomes(kafka)
    # Partition 0 has a whole one, that of partition 1 was altered: it takes the one before, or the log.
    manifests(1)[-1].write_bytes(b"{}")
    feed.mixture(50)
    running = ThreadedJoiner(kafka, tmp_path / "second", store_url=str(store))
    made = wait_for_outcomes(kafka)
    running.end()
    assert_exactly(made)
    assert_books(kafka, made)
    restores = running.stats.restores
    assert restores[0].source == "checkpoint"
    assert restores[0].fetched > 0
    of_partition = sum(one.partition == 0 for one in (*made.predictions, *made.labels))
    assert 0 < restores[0].records - restores[0].outcomes < of_partition / 2
    assert all(one.done == one.total and one.took_s is not None for one in restores.values())
    reported = [
        JoinProgress.decode(record.value or b"")
        for record in read_topic(kafka, JOIN_PROGRESS)
        if record.value is not None
    ]
    last = {progress.partition: progress for progress in reported}
    assert {(p.phase, p.source, p.records) for p in last.values()} == {
        ("joining", one.source, one.records) for one in restores.values()
    }


def test_a_restored_joiner_continues_revisions_and_seqs(kafka: Connection, tmp_path: Path) -> None:
    feed = Feed(kafka, seed=4)
    feed.event(PREDICTIONS, prediction("a", "x"))
    feed.event(LABELS, label("a", "x"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        wait_for_outcomes(kafka)
    shutil.rmtree(tmp_path)
    feed.event(LABELS, label("a", "y"))
    feed.event(PREDICTIONS, prediction("b", "x"))
    feed.event(LABELS, label("b", "x"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        made = wait_for_outcomes(kafka)
    assert_exactly(made)
    assert_books(kafka, made)
    assert sorted((o.prediction_id, o.revision) for _, o in made.outcomes) == [("a", 0), ("a", 1), ("b", 0)]


def test_what_was_refused_stays_refused_after_its_model_got_a_spec_and_the_disk_was_lost(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=5)
    feed.event(PREDICTIONS, prediction("a", "x", model="later"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        wait_until(lambda: read_made(kafka).dead_letters)
    shutil.rmtree(tmp_path)
    apply_deployment(kafka, Deployment(models={"m": ModelSpec(), "later": ModelSpec()}))
    feed.event(LABELS, label("a", "x"))
    feed.event(PREDICTIONS, prediction("b", "x", model="later"))
    feed.event(LABELS, label("b", "x"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        made = wait_until(lambda: made if (made := read_made(kafka)).outcomes else None)
    assert [o.prediction_id for _, o in made.outcomes] == ["b"]


def test_a_spec_applied_just_before_its_first_prediction_is_known(kafka: Connection, tmp_path: Path) -> None:
    feed = Feed(kafka, seed=6)
    with joiner_process(kafka, tmp_path):
        feed.event(PREDICTIONS, prediction("a", "x"))
        feed.event(LABELS, label("a", "x"))
        feed.flush()
        wait_for_outcomes(kafka)
        for i in range(5):
            apply_deployment(kafka, Deployment(models={"m": ModelSpec(), f"new-{i}": ModelSpec()}))
            feed.event(PREDICTIONS, prediction(f"b{i}", "x", model=f"new-{i}"))
            feed.event(LABELS, label(f"b{i}", "x"))
            feed.flush()
            made = wait_for_outcomes(kafka)
    assert made.dead_letters == []


def malformed() -> dict[str, bytes | None]:
    good = orjson.dumps(prediction("bad", "x"))
    return {
        "truncated": good[:-9],
        "not an object": b"[1]",
        "wrong type": orjson.dumps(prediction("bad", "x") | {"ts": "now"}),
        "NaN": good.replace(b'"hour":5', b'"hour":NaN'),
        "invalid UTF-8": good.replace(b"UA", b"U\xff"),
        "lone surrogate": good.replace(b'"bad"', b'"\\ud800"'),
        "missing id": orjson.dumps({k: v for k, v in prediction("bad").items() if k != "prediction_id"}),
        "unknown model": orjson.dumps(prediction("bad", model="nobody knows")),
        "unspecified model": orjson.dumps(prediction("bad", model="unspecified")),
        "2 MB": orjson.dumps(prediction("bad") | {"features": {"x": "y" * 2_000_000}}),
        "4 MB": b"z" * 4_100_000,
        "deep": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        "deep but legal": good[:-1] + b',"deep":' + b"[" * 230 + b"]" * 230 + b"}",
        "empty": b"",
        "nothing": None,
    }


def test_malformed_events_all_reach_dead_letters_and_the_next_good_event_is_processed(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=7)
    large = Producer(kafka.producer(message_max_bytes=4_194_304))
    corpus = malformed()
    for topic in (PREDICTIONS, LABELS):
        for value in corpus.values():
            large.produce(kafka.topic(topic), value, b"\xff key", partition=0)
    assert large.flush(60) == 0
    feed.event(PREDICTIONS, prediction("good", "x"))
    feed.event(LABELS, label("good", "x"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        wanted = 2 * len(corpus) - 2
        made = wait_until(
            lambda: made if len((made := read_made(kafka)).dead_letters) >= wanted and made.outcomes else None
        )
    assert [o.prediction_id for _, o in made.outcomes] == ["good"]
    refused = {(letter.topic, letter.offset) for letter in made.dead_letters}
    # As labels, events of unknown models and deep ones lack a label like all the others.
    assert refused == {(kafka.topic(t), i) for t in (PREDICTIONS, LABELS) for i in range(len(corpus))}
    for letter in made.dead_letters:
        assert base64.b64decode(letter.key_b64 or "") == b"\xff key"
        assert letter.reason
        value = list(corpus.values())[letter.offset]
        kept = None if letter.value_b64 is None else base64.b64decode(letter.value_b64)
        assert kept == value or ("cut" in letter.reason and kept and (value or b"").startswith(kept))
    assert made.totals()["dead"] == len(made.dead_letters)


def test_a_full_disk_ends_it_with_one_error_and_loses_nothing(kafka: Connection, tmp_path: Path) -> None:
    disk, folder = FullDisk(tmp_path / "disk"), tmp_path / "disk" / "state"
    if not disk.available:
        pytest.skip(MISSING)
    feed = Feed(kafka, seed=9)
    running = ThreadedJoiner(kafka, folder, tuning=JoinTuning(flush_interval_s=0.1))
    try:
        feed.mixture(50)
        wait_for_outcomes(kafka)
        disk.fill()
        for number in itertools.count():
            event = prediction(f"big-{number}", "x") | {"features": {"noise": secrets.token_hex(100_000)}}
            feed.event(PREDICTIONS, event)
            feed.flush()
            time.sleep(0.2)  # longer than a flush is waited for
            if running.ended():
                break
        running.end()
        assert isinstance(running.error, StateError)
        said = str(running.error)
        place = rf"the state in {folder}/\S+"
        assert re.match(rf"{place} cannot be written: its disk is full: free some", said)
        disk.free()
        for late in range(number + 1):
            feed.event(LABELS, label(f"big-{late}", "x"))
        feed.flush()
        with joiner_process(kafka, folder):
            made = wait_for_outcomes(kafka)
    finally:
        running.stop.set()
        disk.close()
    assert_exactly(made)
    assert_books(kafka, made)


def test_two_joiners_share_the_partitions_and_take_over_from_each_other(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=8)
    feed.mixture(200)
    with joiner_process(kafka, tmp_path / "j0", "j0"):
        wait_for_outcomes(kafka)
        admin = AdminClient(kafka.client())

        def shares() -> list[int]:
            (described,) = admin.describe_consumer_groups([kafka.group(GROUP)]).values()
            members = described.result(timeout=30).members
            return sorted(len(member.assignment.topic_partitions) for member in members)

        with joiner_process(kafka, tmp_path / "j1", "j1"):
            feed.mixture(300)
            wait_until(lambda: shares() == [2, 2], "both to own a partition of each topic")
            feed.mixture(100)
            wait_for_outcomes(kafka)
        feed.mixture(100)
        made = wait_for_outcomes(kafka)  # once the session of the one that left has ended
    assert_exactly(made)
    assert_books(kafka, made)


def test_it_does_not_begin_again_when_its_offsets_are_gone(kafka: Connection, tmp_path: Path) -> None:
    Feed(kafka, seed=10).mixture(50)
    with joiner_process(kafka, tmp_path):
        wait_for_outcomes(kafka)
    before = len(read_made(kafka).outcomes)
    admin = AdminClient(kafka.client())

    def delete_group() -> bool:
        (deleted,) = admin.delete_consumer_groups([kafka.group(GROUP)]).values()
        return deleted.exception(timeout=10) is None

    wait_until(delete_group, "the group to be empty")
    running = ThreadedJoiner(kafka, tmp_path)
    wait_until(running.ended)
    assert isinstance(running.error, StateError)
    assert len(read_made(kafka).outcomes) == before


def test_vitals_go_to_the_partition_of_their_model(kafka: Connection, tmp_path: Path) -> None:
    models = {f"m{i}": ModelSpec() for i in range(6)}
    apply_deployment(kafka, Deployment(models=models))
    feed = Feed(kafka, seed=11)
    for name in models:
        feed.event(PREDICTIONS, prediction(f"of-{name}", "x", model=name))
        feed.event(LABELS, label(f"of-{name}", "x"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        wait_for_outcomes(kafka)
    reader = LogReader(kafka, (VITALS, OUTCOMES))
    records = [record for record in reader.catch_up() if record.value is not None]
    reader.close()
    for record in records:
        event = orjson.loads(record.value or b"")
        for entry in event.get("models", []):
            assert record.partition == partition_of(entry["model"], 2)
        if record.topic == kafka.topic(OUTCOMES):
            assert record.partition == partition_of(event["prediction_id"], 2)
            assert record.key == event["prediction_id"].encode()
