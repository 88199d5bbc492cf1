"""The joiner on real Kafka: exactly once through kills, rebalances, lost disks and full ones."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
from pathlib import Path

import orjson
from confluent_kafka.admin import AdminClient
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.errors import StateError
from driftloop.schemas.joining import JoinProgress
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import JOIN_PROGRESS, LABELS, OUTCOMES, PREDICTIONS, VITALS
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.shell import GROUP
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader

from tests.support.full_disk import FullDisk
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


def test_a_full_disk_ends_it_with_one_error_and_loses_nothing(
    kafka: Connection, disk: FullDisk, tmp_path: Path
) -> None:
    feed, folder, sent = Feed(kafka, seed=9), tmp_path / "disk" / "state", list[str]()
    running = ThreadedJoiner(kafka, folder, tuning=JoinTuning(flush_interval_s=0.1))

    def ended_by_more() -> bool:
        sent.append(f"big-{len(sent)}")
        noise = {"noise": secrets.token_hex(100_000)}
        feed.event(PREDICTIONS, prediction(sent[-1], "x") | {"features": noise})
        feed.flush()
        wait_until(lambda: running.ended() or running.stats.records >= feed.sent)
        return running.ended()

    try:
        feed.mixture(50)
        wait_for_outcomes(kafka)
        disk.fill()
        wait_until(ended_by_more, "it ends")
    finally:
        running.end()
    assert isinstance(running.error, StateError)
    place = rf"the state in {folder}/\S+"
    assert re.match(rf"{place} cannot be written: its disk is full: free some", str(running.error))
    disk.free()
    for name in sent:
        feed.event(LABELS, label(name, "x"))
    feed.flush()
    with joiner_process(kafka, folder):
        made = wait_for_outcomes(kafka)
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
