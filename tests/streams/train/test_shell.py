"""The trainer on real Kafka: from outcomes and a trigger to a version, and people's commands.

One trainer serves all tests of this file, each with a model of its own.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator

import pytest
from driftloop.infra.settings import Settings
from driftloop.models.registry.artifacts import ArtifactStore
from driftloop.models.registry.signing import load_verifier
from driftloop.schemas.control import RequestControl, RunControl, UpdateControl
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import Manifest
from driftloop.schemas.topics import COMMANDS, OUTCOMES, TRIGGERS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.transactions import Transactions
from driftloop.streams.train.shell import TrainerShell
from pydantic import ValidationError

from tests.support.kafka.topics import new_settings, own_topics
from tests.support.train.learners import custom
from tests.support.train.world import TrainerProcess, World, no_version_twice, quick_spec, trainer_config
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def world(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = new_settings(broker, tmp_path_factory.mktemp("trainer"))
    with own_topics(settings) as connection, TrainerProcess(made := World(settings, connection)):
        yield made


@pytest.fixture
def model(world: World, request: pytest.FixtureRequest) -> str:
    """A model of the test's own, its spec published."""
    name = f"model-{uuid.uuid4().hex[:6]}"
    world.apply(quick_spec(), name)
    return name


def first_version(world: World, model: str) -> TrainingRun:
    world.outcomes(320, model=model)
    run = world.ended(world.trigger("volume", model=model))
    assert run.status == "promoted", run.why
    return run


def drifted(world: World, model: str, *, version: int, flipped: bool = True) -> TrainingRun:
    """A change, its labels, its trigger, and the run's end."""
    change = world.here()
    world.outcomes(320, model=model, version=version, flipped=flipped)
    return world.ended(world.trigger("drift", model=model, version=version, change=change))


def manifest_of(world: World, model: str, sha256: str) -> Manifest:
    return ArtifactStore(str(world.settings.state_dir / "artifacts")).get_manifest(model, sha256)


def test_outcomes_and_a_trigger_give_a_signed_version_and_its_whole_evidence(
    world: World, model: str
) -> None:
    run = first_version(world, model)
    (update,) = world.updates(model)
    assert (update.generation, update.last_version, update.cause) == (1, 1, run.run_id)
    verifier = load_verifier(world.settings.state_dir / "keys")
    verifier.verify(update)
    assert update.plan.champion is not None
    manifest = manifest_of(world, model, update.plan.champion.manifest_sha256)
    verifier.verify(manifest)
    assert (manifest.version, manifest.run_id, manifest.parent) == (1, run.run_id, None)
    assert run.lineage is not None
    assert run.lineage.rows == 320
    assert run.gates
    assert run.seed == 7
    assert run.packages
    assert {"wait_labels", "read_window", "spawn", "train", "evaluate", "publish"} <= set(
        run.timings_ms or {}
    )
    reported = [control for control in world.controls() if getattr(control, "model", "") == model]
    assert [c.version for c in reported if isinstance(c, UpdateControl)] == [1]
    assert [(c.status, c.last_stage) for c in reported if isinstance(c, RunControl)] == [("promoted", True)]
    statuses = [record.status for record in world.run_records(model)]
    assert statuses[-3:] == ["training", "evaluating", "promoted"]
    assert set(statuses[:-3]) == {"waiting"}


def test_a_drift_waits_for_labels_after_the_change_and_its_window_begins_there(
    world: World, model: str
) -> None:
    first_version(world, model)
    change = world.here()
    trigger = world.trigger("drift", model=model, version=1, change=change)
    world.outcomes(100, model=model, version=1, flipped=True)
    waiting = wait_until(
        lambda: next(
            (
                run
                for run in world.runs(model).values()
                if run.trigger_id == trigger.trigger_id and run.progress and run.progress.labels == 100
            ),
            None,
        ),
        what="100 labels to be counted",
    )
    assert waiting.progress is not None
    assert (waiting.status, waiting.progress.needed) == ("waiting", 300)
    wait_until(lambda: _looked_at_all(world, model), what="everything to be looked at")
    world.outcomes(250, model=model, version=1, flipped=True)
    run = world.ended(trigger)
    assert (run.status, run.version) == ("promoted", 2), run.why
    assert run.progress is not None
    assert run.progress.labels == 300
    assert run.lineage is not None
    assert run.lineage.rows - run.lineage.old_rows == 300
    firsts = {p: position.seq for p, position in change.partitions.items()}
    if run.lineage.old_rows == 0:
        assert {p: first for p, (first, _) in run.lineage.partitions.items()} == firsts
    parent = world.updates(model)[-1].plan.champion
    assert parent is not None
    assert manifest_of(world, model, parent.manifest_sha256).parent == 1


def test_a_candidate_that_is_no_better_is_refused_with_the_gates_results(world: World, model: str) -> None:
    first_version(world, model)
    world.outcomes(320, model=model, version=1)
    run = world.ended(world.trigger("manual", model=model, version=1))
    assert run.status == "rejected"
    assert run.why.startswith("refused by significance")
    assert [gate.passed for gate in run.gates if gate.gate == "significance"] == [False]
    assert len(world.updates(model)) == 1


def test_a_follow_up_is_evaluated_on_rows_that_the_new_champion_never_saw(world: World, model: str) -> None:
    window = {"labels_after_change": 300, "follow_ups": [600], "max_rows": 2000, "old_rows": 0}
    world.apply(quick_spec(window=window), model)
    first_version(world, model)
    change = world.here()
    trigger = world.trigger("drift", model=model, version=1, change=change)
    world.outcomes(300, model=model, version=1, flipped=True)
    first = world.ended(trigger)
    assert first.status == "promoted", first.why
    world.outcomes(320, model=model, version=2, flipped=True)
    second = world.ended(trigger, stage=1)
    assert second.champion == 2
    assert second.lineage is not None
    assert second.lineage.rows == 600
    # 600 rows × 0.3 held out = 180, all of them among the 300 that stage 0 did not have.
    assert second.lineage.holdout_rows == 180
    assert "champion" in " ".join(second.metrics or {})


def test_a_poison_trigger_is_dead_lettered_and_the_next_one_is_served(world: World, model: str) -> None:
    poisons = [
        b'{"trigger_id":',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"x" * 2_097_152,
        b"x" * 3_500_000,
        b'{"a":' * 2000,
    ]
    for poison in poisons:
        world.produce(TRIGGERS, poison, key=model)
    world.produce(COMMANDS, b"not a command", key=model)
    first_version(world, model)
    letters = wait_until(
        lambda: (
            (found := [letter for letter in world.dead_letters() if _key(letter.key_b64) == model])
            and len(found) == 7
            and found
        )
    )
    assert [letter.stage for letter in letters].count("train") == 6
    assert sum(letter.cut is True for letter in letters) == 1  # the one that is too large to repeat
    assert all(letter.reason for letter in letters)


def test_a_run_past_its_time_limit_fails_and_the_next_trigger_is_served(world: World, model: str) -> None:
    begun = world.settings.state_dir / f"{model}-begun"
    world.apply(
        quick_spec(
            learner=custom("Endless", begun=str(begun)), window={"max_rows": 2000, "time_limit": "2s"}
        ),
        model,
    )
    world.outcomes(320, model=model)
    run = world.ended(world.trigger("volume", model=model))
    assert (run.status, run.why) == ("failed", "time limit of 2 s exceeded")
    world.apply(quick_spec(), model)
    first_version(world, model)


def test_a_learner_that_crashes_fails_its_run_with_the_last_of_its_stderr(world: World, model: str) -> None:
    world.apply(quick_spec(learner=custom("Crashing")), model)
    world.outcomes(320, model=model)
    run = world.ended(world.trigger("volume", model=model))
    assert run.status == "failed"
    assert run.why == "the training process ended with signal 6: corrupted double-linked list"


def test_a_function_that_a_spec_names_is_not_called(world: World, model: str) -> None:
    proof = world.settings.state_dir / f"{model}-called"
    evil = {"kind": "custom", "factory": "pathlib:Path.touch", "parameters": {"self": str(proof)}}
    system = {"kind": "custom", "factory": "os:system", "parameters": {"command": f"touch {proof}"}}
    with pytest.raises(ValidationError):
        quick_spec(learner=evil)
    world.apply(quick_spec(learner=[system, {"kind": "river"}]), model)
    world.outcomes(320, model=model)
    run = world.ended(world.trigger("volume", model=model))
    assert run.status == "failed"
    assert "DRIFTLOOP_LEARNERS=os:system" in run.why
    assert not proof.exists()


def test_a_stale_command_is_refused_by_event_and_a_fresh_one_is_done(world: World, model: str) -> None:
    first_version(world, model)
    assert drifted(world, model, version=1).status == "promoted"
    stale = world.answer(world.command("rollback", model=model, generation=1))
    assert (stale.status, stale.generation) == ("refused", 2)
    assert "generation is 2 by now" in stale.reason
    assert len(world.updates(model)) == 2
    done = world.answer(world.command("rollback", model=model, generation=2))
    assert (done.status, done.generation) == ("done", 3)
    update = world.updates(model)[-1]
    assert update.plan.champion is not None
    assert (update.plan.champion.version, update.last_version) == (1, 2)
    reported = [c for c in world.controls() if isinstance(c, UpdateControl) and c.model == model][-1]
    assert reported.version == 1
    assert reported.reference is not None
    assert no_version_twice(world.updates(model))


def test_a_brought_model_is_tested_before_it_becomes_a_version(world: World, model: str) -> None:
    first_version(world, model)
    store = ArtifactStore(str(world.settings.state_dir / "artifacts"))
    champion = world.updates(model)[-1].plan.champion
    assert champion is not None
    made = store.get_manifest(model, champion.manifest_sha256)
    draft = made.model_copy(update={"version": 0, "key_id": "", "signature": "", "run_id": None})
    lying = draft.model_copy(
        update={
            "self_test": tuple(
                row.model_copy(update={"prediction": "no" if row.prediction == "yes" else "yes"})
                for row in draft.self_test
            )
        }
    )
    for bad, reason in (
        (lying, "self-test row 0"),
        (draft.model_copy(update={"artifact_bytes": 3}), "the manifest says 3"),
        (draft.model_copy(update={"artifact_sha256": "0" * 64}), "is not in the store"),
        (draft.model_copy(update={"format": "river-json"}), ""),
    ):
        command = world.command("register", model=model, manifest_sha256=store.put_manifest(bad))
        refused = world.answer(command)
        assert refused.status == "refused"
        assert reason in refused.reason
    command = world.command("register", model=model, manifest_sha256=store.put_manifest(draft), why="try")
    assert world.answer(command).status == "done"
    update = world.updates(model)[-1]
    assert (update.generation, update.last_version) == (2, 2)
    assert update.plan.champion is not None
    load_verifier(world.settings.state_dir / "keys").verify(
        manifest_of(world, model, update.plan.champion.manifest_sha256)
    )


def test_a_request_reaches_the_model_s_vitals(world: World, model: str) -> None:
    command = world.command("trigger", model=model, why="because")
    answer = world.answer(command)
    assert answer.status == "done", answer.reason
    asked = [c for c in world.controls() if isinstance(c, RequestControl) and c.model == model]
    assert [(c.command_id, c.why) for c in asked] == [(command.command_id, "because")]


def test_a_command_for_a_model_that_nobody_published_is_answered(world: World) -> None:
    refused = world.answer(world.command("retire", model="typo"))
    assert refused.status == "refused"
    assert "driftloop apply" in refused.reason


def _looked_at_all(world: World, model: str) -> bool:
    ends = {str(partition): end for partition, end in world.ends(OUTCOMES).items()}
    return any(
        run.status == "waiting" and run.progress is not None and run.progress.outcome_offsets == ends
        for run in world.runs(model).values()
    )


def _key(key_b64: str | None) -> str:
    return base64.b64decode(key_b64 or "").decode(errors="replace")


def test_a_trainer_that_stops_closes_its_producer(
    topics: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, close = list[Transactions](), Transactions.close
    monkeypatch.setattr(Transactions, "close", lambda self: closed.append(self) or close(self))
    shell = TrainerShell(topics, trainer_config(settings.state_dir))
    shell.start()
    shell.close()
    assert len(closed) == 1
