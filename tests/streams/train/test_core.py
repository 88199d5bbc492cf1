"""Triggers become runs, and good runs versions: what the trainer's core decides, without a broker."""

from __future__ import annotations

import pytest
from driftloop.schemas.control import RunControl, UpdateControl
from driftloop.schemas.decisions import Trigger
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.topics import TRIGGERS
from driftloop.streams.train.core import TrainerCore
from driftloop.streams.train.model_runs import MAX_ATTEMPTS
from driftloop.streams.train.window.window import MIN_LABELS, WaitRequest

from tests.support.train.core import CHANGE, MODEL, SIGNER, TrainerBench, spec, trained


@pytest.fixture
def bench() -> TrainerBench:
    return TrainerBench()


def test_a_promoted_run_gives_update_reference_and_word_in_one_step(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    bench.train(run)
    step = bench.runs.finished(run.run_id, trained())
    kinds = [type(output.event) for output in step.outputs]
    assert kinds == [ModelUpdate, UpdateControl, TrainingRun, RunControl]
    bench.commit(step)
    assert [manifest.version for manifest in step.manifests] == [1]
    (reported,) = bench.of(UpdateControl)
    assert reported.reference == step.manifests[0].reference
    ended = bench.newest()[run.run_id]
    assert (ended.version, ended.manifest_sha256) == (1, _champion_sha(bench))
    assert step.manifests[0].created_ms == ended.ts


def test_a_repeated_trigger_gives_nothing_whatever_became_of_the_first(bench: TrainerBench) -> None:
    trigger = bench.trigger("volume")
    assert bench.send(trigger) == ()
    run = bench.run_of(trigger)
    bench.train(run)
    assert bench.send(trigger) == ()
    bench.finish(run, trained())
    assert bench.send(trigger) == ()
    bench.abort()
    assert bench.send(trigger) == ()


def test_bytes_that_are_no_trigger_become_a_dead_letter_with_them(bench: TrainerBench) -> None:
    for value in (b"{", b"\xff\xfe", b'{"trigger_id": 3}', b"null"):
        (letter,) = bench.commit(bench.core.on_trigger(bench.record(TRIGGERS, value)))
        assert isinstance(letter, DeadLetter)
        assert letter.stage == "train"
        assert letter.reason
    assert bench.newest() == {}


def test_a_trigger_on_another_partition_than_its_model_s_is_not_acted_on(bench: TrainerBench) -> None:
    elsewhere = next(
        core
        for partition in range(4)
        if not (core := TrainerCore(partition, 4, SIGNER, "append")).owns(MODEL)
    )
    trigger = bench.make_trigger("manual")
    (letter,) = bench.commit(elsewhere.on_trigger(bench.record(TRIGGERS, trigger.encode())))
    assert isinstance(letter, DeadLetter)
    assert "murmur2" in letter.reason


def test_a_newer_trigger_supersedes_a_run_that_waits_and_lets_one_that_trains_go_on(
    bench: TrainerBench,
) -> None:
    bench.version()
    waiting = bench.trigger("manual")
    training = bench.trigger("manual")
    assert bench.run_of(waiting).status == "superseded"
    bench.train(bench.run_of(training))
    newest = bench.trigger("manual")
    assert bench.run_of(training).status == "evaluating"
    bench.freeze(bench.run_of(newest))
    assert bench.runs.startable({bench.run_of(training).run_id}) is None
    bench.finish(bench.run_of(training), trained(passed=False))
    assert bench.start().trigger_id == newest.trigger_id


def test_a_drift_of_a_version_that_is_gone_is_superseded_at_once(bench: TrainerBench) -> None:
    bench.version()
    bench.version()
    stale = bench.trigger("drift", version=1, estimated_change=CHANGE)
    assert bench.run_of(stale).status == "superseded"
    assert bench.reported()[-1] == ("superseded", True)
    first = bench.trigger("volume", version=0)
    assert bench.run_of(first).status == "superseded"
    assert bench.run_of(bench.trigger("schedule", version=1)).status == "waiting"


def test_follow_ups_come_with_more_labels_and_skip_what_was_there_already(bench: TrainerBench) -> None:
    bench.version()
    trigger = bench.trigger("drift", estimated_change=CHANGE)
    run = bench.run_of(trigger)
    bench.train(run, labels=650)  # more than the 300 asked for, and than stage 1's 600
    bench.finish(run, trained(passed=False))
    assert bench.reported()[-1] == ("rejected", False)
    last = bench.run_of(trigger, stage=2)
    assert (last.status, last.progress.needed if last.progress else 0) == ("waiting", 900)
    assert last.change == CHANGE
    bench.train(last)
    assert bench.finish(last, trained()).status == "promoted"
    assert bench.reported()[-1] == ("promoted", True)
    assert len(bench.newest()) == 3


def test_a_follow_up_after_a_promotion_is_evaluated_against_the_new_champion(bench: TrainerBench) -> None:
    bench.version()
    trigger = bench.trigger("drift", estimated_change=CHANGE)
    run = bench.run_of(trigger)
    bench.train(run)
    bench.finish(run, trained(last=80))
    follow_up = bench.run_of(trigger, stage=1)
    bench.freeze(follow_up)
    assert bench.start().champion == 2
    job = bench.runs.job(follow_up.run_id)
    assert job.champion is not None
    assert (job.champion.version, job.used_seqs) == (2, {0: 80})


def test_a_newer_trigger_takes_the_place_of_follow_ups(bench: TrainerBench) -> None:
    bench.version()
    trigger = bench.trigger("drift", estimated_change=CHANGE)
    bench.train(bench.run_of(trigger))
    newer = bench.trigger("manual")
    bench.finish(bench.run_of(trigger), trained(passed=False))
    assert bench.reported()[-1] == ("rejected", True)
    assert [run.trigger_id for run in bench.runs.open_runs()] == [newer.trigger_id]


def test_without_a_change_there_are_no_follow_ups(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    bench.train(run)
    bench.finish(run, trained())
    assert bench.reported() == [("promoted", True)]
    assert bench.runs.open_runs() == []


def test_too_few_labels_in_time_end_the_run_and_a_few_more_than_the_least_do(bench: TrainerBench) -> None:
    bench.version()
    trigger = bench.trigger("drift", estimated_change=CHANGE)
    bench.freeze(bench.run_of(trigger), labels=MIN_LABELS - 1)
    ended = bench.run_of(trigger)
    assert ended.status == "failed"
    assert ended.why.startswith(f"not enough labels: {MIN_LABELS - 1} of 300")
    assert bench.reported()[-1] == ("failed", True)
    enough = bench.trigger("drift", estimated_change=CHANGE)
    bench.freeze(bench.run_of(enough), labels=MIN_LABELS)
    assert bench.start().trigger_id == enough.trigger_id


def test_an_interrupted_run_starts_again_with_the_same_window(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    bench.train(run)
    before = bench.newest()[run.run_id]
    bench.abort()
    again = bench.start()
    assert (again.status, again.attempt) == ("training", 2)
    assert (again.progress, again.ts, again.champion) == (before.progress, before.ts, before.champion)
    assert bench.runs.startable([run.run_id]) is None
    bench.finish(again, trained())
    assert bench.statuses(run.run_id) == [
        "waiting", "training", "evaluating", "training", "evaluating", "promoted",
    ]  # fmt: skip


def test_a_run_that_is_interrupted_again_and_again_fails(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    bench.train(run)
    for _ in range(MAX_ATTEMPTS):
        bench.abort()
        last = bench.start()
    assert last.status == "failed"
    assert bench.runs.startable(()) is None


def test_a_run_that_needs_approval_waits_for_a_person_and_not_for_labels(bench: TrainerBench) -> None:
    bench.version()
    trigger = bench.trigger("drift", approval="pending", estimated_change=CHANGE)
    assert bench.run_of(trigger).status == "waiting"
    assert bench.runs.waits() == []
    assert bench.command("approve", trigger_id=trigger.trigger_id).status == "done"
    bench.send(trigger.model_copy(update={"approval": "approved", "by": "ada"}))
    assert [request.run_id for request in bench.runs.waits()] == [bench.run_of(trigger).run_id]
    assert bench.send(trigger) == ()


def test_a_denied_trigger_ends_its_run_and_is_not_reported_to_the_policy_who_knows(
    bench: TrainerBench,
) -> None:
    bench.version()
    reported = bench.reported()
    trigger = bench.trigger("drift", approval="pending")
    assert bench.command("deny", trigger_id=trigger.trigger_id).status == "done"
    bench.send(trigger.model_copy(update={"approval": "denied", "by": "ada", "why": "no"}))
    assert (bench.run_of(trigger).status, bench.run_of(trigger).why) == ("superseded", "denied by ada: no")
    assert bench.reported() == reported
    assert bench.send(bench.make_trigger("drift", approval="denied")) == ()


def test_a_grant_that_crosses_a_change_of_champion_is_answered_so_that_nobody_waits(
    bench: TrainerBench,
) -> None:
    bench.version()
    trigger = bench.trigger("drift", approval="pending", estimated_change=CHANGE)
    bench.version()
    assert bench.run_of(trigger).status == "superseded"
    (end,) = bench.send(trigger.model_copy(update={"approval": "approved"}))
    assert isinstance(end, RunControl)
    assert (end.trigger_id, end.status, end.last_stage) == (trigger.trigger_id, "superseded", True)


def test_nothing_learned_is_a_failure_and_not_a_rejection(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    bench.freeze(run)
    bench.start()
    ended = bench.finish(run, trained(learned=False))
    assert (ended.status, ended.why) == ("failed", "too few rows")
    assert bench.of(ModelUpdate) == []


def test_a_result_that_lacks_parts_of_a_manifest_fails_the_run(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    bench.train(run)
    found = trained()
    ended = bench.finish(run, found.model_copy(update={"artifact_sha256": None}))
    assert ended.status == "failed"
    assert bench.of(ModelUpdate) == []


def test_rows_of_a_new_champion_are_not_counted_for_runs_that_wait_whatever_the_champion(
    bench: TrainerBench,
) -> None:
    bench.version()
    first = bench.trigger("manual")
    bench.train(bench.run_of(first))
    second = bench.trigger("manual")
    bench.freeze(bench.run_of(second))
    bench.finish(bench.run_of(first), trained())
    assert bench.runs.startable(()) is None
    (request,) = bench.runs.waits()
    assert request.run_id == bench.run_of(second).run_id
    assert request.plan.used_ends == {0: 100}


def test_a_new_champion_ends_runs_that_wait_about_the_old_one(bench: TrainerBench) -> None:
    bench.version()
    first = bench.trigger("manual")
    bench.train(bench.run_of(first))
    drift = bench.trigger("drift", estimated_change=CHANGE)
    bench.finish(bench.run_of(first), trained())
    assert bench.run_of(drift).status == "superseded"


def test_progress_is_written_only_when_it_changed(bench: TrainerBench) -> None:
    run = bench.run_of(bench.trigger("volume"))
    assert bench.runs.progressed(run.run_id, 3, {"0": 7})
    assert not bench.runs.progressed(run.run_id, 3, {"0": 7})
    assert bench.runs.progressed(run.run_id, 3, {"0": 8})


def test_in_the_event_clock_times_are_the_world_s() -> None:
    bench = TrainerBench(clock="event")
    trigger = bench.trigger("volume", ts=77)
    run = bench.run_of(trigger)
    assert (run.ts, run.trigger_append_ms) == (77, bench.now_ms)
    bench.train(run)
    assert bench.finish(run, trained()).ts == bench.now_ms  # the frozen window's
    assert bench.command("pin").status == "done"
    assert bench.of(ModelUpdate)[-1].ts == bench.now_ms - 10


def test_a_first_version_waits_for_first_labels_and_later_ones_for_those_after_the_change() -> None:
    bench = TrainerBench(model_spec=spec(triggers={"first_labels": 50}))
    (wait,) = _waits(bench, bench.trigger("manual"))
    assert wait.needed == 50
    bench.train(bench.run_of(_last(bench)))
    bench.finish(bench.run_of(_last(bench)), trained())
    (wait,) = _waits(bench, bench.trigger("manual"))
    assert wait.needed == 300


def _champion_sha(bench: TrainerBench) -> str:
    champion = bench.of(ModelUpdate)[-1].plan.champion
    assert champion is not None
    return champion.manifest_sha256


def _waits(bench: TrainerBench, trigger: Trigger) -> list[WaitRequest]:
    assert bench.run_of(trigger).status == "waiting"
    return bench.runs.waits()


def _last(bench: TrainerBench) -> Trigger:
    run = bench.of(TrainingRun)[-1]
    return bench.make_trigger("manual", trigger_id=run.trigger_id)
