"""Versions, generations and people's commands: one writer, nothing twice, refusals with their reason."""

from __future__ import annotations

import pytest
from driftloop.models.registry.signing import Verifier
from driftloop.schemas.base import Event
from driftloop.schemas.control import ApprovalControl, RequestControl, UpdateControl
from driftloop.schemas.decisions import Action, CommandResult
from driftloop.schemas.errors import ArtifactError
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.topics import COMMANDS
from driftloop.streams.train.registrar import Registrar

from tests.support.train.core import CHANGE, MODEL, SIGNER, TrainerBench, draft, sha_of, trained


def with_versions(count: int) -> TrainerBench:
    bench = TrainerBench()
    for _ in range(count):
        bench.version()
    return bench


def test_versions_and_generations_go_up_by_one_and_everything_is_signed() -> None:
    bench = with_versions(3)
    updates = bench.of(ModelUpdate)
    assert [update.generation for update in updates] == [1, 2, 3]
    assert [update.last_version for update in updates] == [1, 2, 3]
    verifier = SIGNER.verifier()
    for update in updates:
        verifier.verify(update)
        champion = update.plan.champion
        assert champion is not None
        manifest = bench.manifests[champion.version]
        verifier.verify(manifest)
        assert champion.manifest_sha256 == sha_of(manifest)
        assert manifest.parent == (champion.version - 1 or None)


def test_an_update_that_was_altered_is_not_taken_for_ours() -> None:
    bench = with_versions(1)
    (update,) = bench.of(ModelUpdate)
    with pytest.raises(ArtifactError):
        SIGNER.verifier().verify(update.model_copy(update={"generation": 9}))
    with pytest.raises(ArtifactError):
        Verifier({}).verify(update)


def test_a_rollback_goes_to_the_parent_and_tells_the_monitor_its_reference() -> None:
    bench = with_versions(3)
    assert bench.command("rollback").status == "done"
    assert bench.champion == 2
    reported = bench.of(UpdateControl)[-1]
    assert (reported.version, reported.reference) == (2, bench.manifests[2].reference)
    assert bench.command("rollback").status == "done"
    assert bench.champion == 1
    refused = bench.command("rollback")
    assert (refused.status, bench.champion) == ("refused", 1)
    assert "no ancestor" in refused.reason


def test_after_a_rollback_the_next_version_has_a_number_that_was_never_given() -> None:
    bench = with_versions(3)
    bench.command("rollback", version=1)
    assert bench.version() == 4
    assert bench.manifests[4].parent == 1
    bench.command("rollback")
    assert bench.champion == 1


def test_a_version_is_never_given_twice_even_if_all_updates_were_lost() -> None:
    bench = with_versions(2)
    bench.log = [event for event in bench.log if not isinstance(event, ModelUpdate)]
    bench.abort()
    assert bench.runs.registrar.serving.last_version == 2


@pytest.mark.parametrize("action", ["promote", "rollback", "pin", "unpin", "block", "retire", "register"])
def test_a_command_from_an_old_generation_is_refused(action: Action) -> None:
    bench = with_versions(2)
    before = bench.runs.registrar.serving
    refused = bench.command(action, version=1, generation=1, manifest_sha256="0" * 64)
    assert refused.status == "refused"
    assert refused.reason == "generation is 2 by now, and 1 was looked at: look again"
    assert bench.runs.registrar.serving == before
    if action not in ("unpin", "register"):
        assert bench.command(action, version=1, generation=2).status == "done"


@pytest.mark.parametrize(
    ("action", "fields", "reason"),
    [
        ("promote", {"version": 9}, "there is no version 9; known: 1, 2"),
        ("promote", {"version": 2}, "version 2 is the champion already"),
        ("promote", {}, "promote needs a version"),
        ("block", {}, "block needs a version"),
        ("block", {"version": 9}, "there is no version 9; known: 1, 2"),
        ("unpin", {}, "nothing is pinned"),
        ("register", {}, "register needs the digest of a stored manifest"),
        ("approve", {"trigger_id": "t"}, "no trigger t of m awaits approval"),
        ("deny", {}, "no trigger None of m awaits approval"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    action: Action, fields: dict[str, object], reason: str
) -> None:
    bench = with_versions(2)
    length = len(bench.log)
    refused = bench.command(action, **fields)
    assert (refused.status, refused.reason, refused.generation) == ("refused", reason, 2)
    assert len(bench.log) == length + 1


def test_a_command_for_a_model_that_nobody_published_is_refused() -> None:
    refused = TrainerBench().command("trigger", model="typo")
    assert refused.status == "refused"
    assert "driftloop apply" in refused.reason


def test_a_pinned_champion_is_not_replaced_by_a_run_but_by_a_person() -> None:
    bench = with_versions(2)
    assert bench.command("pin").status == "done"
    run = bench.run_of(bench.trigger("drift", estimated_change=CHANGE))
    bench.train(run)
    ended = bench.finish(run, trained())
    assert (ended.status, ended.why) == ("rejected", "version 2 is pinned; the candidate was better")
    assert bench.reported()[-1] == ("rejected", True)
    assert bench.command("promote", version=1).status == "done"
    assert bench.runs.registrar.serving.pinned
    assert bench.command("unpin").status == "done"
    assert bench.version() == 3


def test_pinning_an_older_version_brings_it_back() -> None:
    bench = with_versions(2)
    assert bench.command("pin", version=1).status == "done"
    assert (bench.champion, bench.runs.registrar.serving.pinned) == (1, True)
    assert bench.command("pin").reason == "version 1 is pinned already"


def test_blocking_the_champion_falls_back_to_an_ancestor_that_is_not_blocked() -> None:
    bench = with_versions(3)
    assert bench.command("block", version=2).status == "done"
    assert bench.champion == 3
    assert bench.command("block", version=3).status == "done"
    assert (bench.champion, bench.runs.registrar.serving.blocked) == (1, (2, 3))
    assert bench.command("promote", version=3).reason == "version 3 is blocked"
    assert bench.command("block", version=3).reason == "version 3 is blocked already"
    assert "no ancestor" in bench.command("block", version=1).reason


def test_barring_a_version_that_does_not_serve_leaves_the_reference_as_it_is() -> None:
    bench = with_versions(2)
    bench.command("block", version=1)
    reported = bench.of(UpdateControl)[-1]
    assert (reported.version, reported.generation, reported.reference) == (2, 3, None)


def test_a_retired_model_serves_nothing_and_its_runs_end() -> None:
    bench = with_versions(1)
    trigger = bench.trigger("manual")
    assert bench.command("retire").status == "done"
    assert (bench.champion, bench.live()[-1]) == (0, 0)
    assert bench.run_of(trigger).status == "superseded"
    assert bench.command("retire").status == "refused"
    assert bench.command("promote", version=1).status == "done"
    assert bench.champion == 1


def test_what_is_being_evaluated_when_a_person_changes_the_champion_is_superseded() -> None:
    bench = with_versions(2)
    run = bench.run_of(bench.trigger("manual"))
    bench.train(run)
    assert bench.command("rollback").status == "done"
    ended = bench.newest()[run.run_id]
    assert ended.status == "superseded"
    assert ended.why == "the champion changed meanwhile: version 1 since generation 3"
    assert bench.reported()[-1] == ("superseded", True)


def test_a_brought_model_becomes_the_next_version_and_is_on_record() -> None:
    bench = with_versions(1)
    result = bench.order(bench.make_command("register", manifest_sha256="a" * 64, why="ours"), draft())
    assert (result.status, bench.champion) == ("done", 2)
    manifest = bench.manifests[2]
    SIGNER.verifier().verify(manifest)
    assert (manifest.parent, manifest.version) == (1, 2)
    (run,) = [run for run in bench.newest().values() if run.version == 2]
    assert (run.status, run.why, run.run_id) == ("promoted", "registered by ada: ours", manifest.run_id)
    bench.abort()
    bench.command("rollback")
    assert bench.champion == 1
    assert bench.command("promote", version=2).status == "done"


def test_a_manifest_that_could_not_be_used_refuses_the_command_with_the_problem() -> None:
    bench = with_versions(2)
    for command in (bench.make_command("register", manifest_sha256="a" * 64), bench.make_command("rollback")):
        record = bench.record(COMMANDS, command.encode())
        assert bench.core.manifest_request(record) is not None
        (result,) = bench.commit(bench.core.on_command(record, None, "it was altered"))
        assert isinstance(result, CommandResult)
        assert (result.status, result.reason) == ("refused", "it was altered")
    assert bench.champion == 2


def test_a_repeated_command_is_carried_out_once_also_after_a_restart() -> None:
    bench = with_versions(3)
    command = bench.make_command("rollback")
    bench.order(command)
    for _ in range(2):
        record = bench.record(COMMANDS, command.encode())
        assert bench.core.manifest_request(record) is None
        assert bench.commit(bench.core.on_command(record)) == ()
        bench.abort()
    assert bench.champion == 2


def test_bytes_that_are_no_command_become_a_dead_letter() -> None:
    bench = TrainerBench()
    for value in (b"{", b"[1]", b'{"command_id":"c","model":"m","action":"explode","ts":1,"by":"x"}'):
        record = bench.record(COMMANDS, value)
        assert bench.core.manifest_request(record) is None
        (letter,) = bench.commit(bench.core.on_command(record))
        assert isinstance(letter, DeadLetter)
        assert letter.stage == "registrar"


def test_requests_and_approvals_are_relayed_to_the_policy() -> None:
    bench = with_versions(1)
    trigger = bench.trigger("drift", approval="pending")
    bench.command("trigger", why="because")
    bench.command("approve", trigger_id=trigger.trigger_id, why="fine")
    relayed: list[Event] = [
        event for event in bench.log if isinstance(event, RequestControl | ApprovalControl)
    ]
    asked, approval = relayed
    assert isinstance(asked, RequestControl)
    assert (asked.by, asked.why) == ("ada", "because")
    assert isinstance(approval, ApprovalControl)
    assert (approval.trigger_id, approval.approved, approval.why) == (trigger.trigger_id, True, "fine")


def test_rollback_survives_compaction() -> None:
    bench = with_versions(3)
    bench.core = bench.rebuilt(compacted=True)
    assert bench.command("rollback", version=1).status == "done"
    assert len(bench.of(TrainingRun)) > len(bench.newest())


# --- what is taken over from the log, in whatever order it is read ---


def test_an_older_update_that_is_read_later_changes_nothing() -> None:
    updates = with_versions(3).of(ModelUpdate)
    registrar = Registrar(MODEL, SIGNER)
    for update in (*updates, updates[0]):
        registrar.restore(update)
    assert (registrar.serving.generation, registrar.serving.champion) == (3, 3)


def test_an_update_never_takes_back_a_number_that_a_run_was_given() -> None:
    bench = with_versions(3)
    registrar = Registrar(MODEL, SIGNER)
    for run in bench.of(TrainingRun):
        registrar.know(run)
    registrar.restore(bench.of(ModelUpdate)[1])
    assert (registrar.serving.champion, registrar.serving.last_version) == (2, 3)


def test_a_pin_is_in_the_update_and_ends_with_the_models_retirement() -> None:
    bench = with_versions(1)
    assert bench.command("pin").status == "done"
    assert bench.of(ModelUpdate)[-1].pinned
    assert bench.command("retire").status == "done"
    assert not bench.of(ModelUpdate)[-1].pinned
    assert not bench.runs.registrar.serving.pinned
