"""Trainer and registrar against a plain oracle: triggers, runs, people, crashes and aborts in any order.

The oracle knows versions, their parents, who is champion, what is blocked and whether it is pinned; the log
must tell a legal life of every run, and a core made from the log is the core that wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from driftloop.schemas.decisions import Action, Trigger
from driftloop.schemas.errors import IllegalTransition
from driftloop.schemas.runs import RunStatus, TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.topics import COMMANDS, TRIGGERS
from driftloop.streams.train.core import TrainerCore
from driftloop.streams.train.run_lifecycle import ACTIVE, TRANSITIONS
from driftloop.streams.train.step import Step
from driftloop.streams.train.window.window import FrozenWindow
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.fuzz import effort
from tests.support.train.core import CHANGE, MODEL, Bench, sha_of, spec, trained

MOVES = {(start, end) for (start, _), end in TRANSITIONS.items()}
BORN: set[RunStatus] = {"waiting", "superseded"}  # the latter: it was about a version that is gone
ACTIONS: tuple[Action, ...] = ("promote", "rollback", "pin", "unpin", "block", "retire")


class Refused(Exception):
    """The oracle says no."""


@dataclass(frozen=True)
class Expected:
    """What is served, as simply as it can be."""

    champion: int = 0
    generation: int = 0
    pinned: bool = False
    blocked: frozenset[int] = frozenset()
    parents: dict[int, int] = field(default_factory=dict[int, int])

    def promoted(self) -> Expected:
        version = max(self.parents, default=0) + 1
        return replace(
            self,
            champion=version,
            generation=self.generation + 1,
            parents=self.parents | {version: self.champion},
        )

    def after(self, action: Action, version: int | None) -> Expected:
        """Raises Refused."""
        if action == "promote":
            done = self._serving(_given(version))
        elif action == "rollback":
            done = self._serving(self._ancestor(self.champion) if version is None else version)
        elif action == "pin":
            if version not in (None, self.champion):
                done = replace(self._serving(_given(version)), pinned=True)
            else:
                _refuse(self.champion == 0 or self.pinned)
                done = replace(self, pinned=True)
        elif action == "unpin":
            _refuse(not self.pinned)
            done = replace(self, pinned=False)
        elif action == "block":
            done = self._without(_given(version))
        else:
            _refuse(self.champion == 0)
            done = replace(self, champion=0, pinned=False)
        return replace(done, generation=self.generation + 1)

    def _serving(self, version: int) -> Expected:
        _refuse(version not in self.parents or version in self.blocked or version == self.champion)
        return replace(self, champion=version)

    def _without(self, version: int) -> Expected:
        _refuse(version not in self.parents or version in self.blocked)
        done = self._serving(self._ancestor(version)) if version == self.champion else self
        return replace(done, blocked=self.blocked | {version})

    def _ancestor(self, version: int) -> int:
        """The nearest that may serve."""
        while version:
            version = self.parents[version]
            if version and version not in self.blocked:
                return version
        raise Refused


def _given(version: int | None) -> int:
    _refuse(version is None)
    return version or 0


def _refuse(condition: bool) -> None:
    if condition:
        raise Refused


class TrainerMachine(RuleBasedStateMachine):
    """``commits`` False: the transaction is aborted, and the core is rebuilt from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(model_spec=spec())
        self.expected = Expected()
        self.sent: list[Trigger] = []
        self.artifacts = 0
        self.checked = 0

    def write(self, step: Step, *, commits: bool) -> bool:
        if commits:
            self.bench.commit(step)
        else:
            self.bench.abort()
        return commits

    @property
    def open_runs(self) -> list[TrainingRun]:
        return self.bench.runs.open_runs()

    def active(self) -> list[TrainingRun]:
        return [run for run in self.open_runs if run.status in ACTIVE]

    # --- triggers ---

    @rule(
        reason=st.sampled_from(["drift", "volume", "manual", "schedule"]),
        approval=st.sampled_from(["automatic", "automatic", "pending"]),
        older=st.integers(0, 1),
        changed=st.booleans(),
        commits=st.booleans() | st.just(True),
    )
    def a_trigger_comes(self, reason: str, approval: str, older: int, changed: bool, commits: bool) -> None:
        trigger = self.bench.make_trigger(
            reason,
            approval=approval,
            version=max(0, self.expected.champion - older),
            estimated_change=CHANGE if changed else None,
        )
        record = self.bench.record(TRIGGERS, trigger.encode())
        if self.write(self.bench.core.on_trigger(record), commits=commits):
            self.sent.append(trigger)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_trigger_comes_again(self, data: st.DataObject) -> None:
        trigger = data.draw(st.sampled_from(self.sent))
        before = self.open_runs
        step = self.bench.core.on_trigger(self.bench.record(TRIGGERS, trigger.encode()))
        assert not step
        assert self.open_runs == before

    @precondition(lambda self: any(trigger.approval == "pending" for trigger in self.sent))
    @rule(data=st.data(), decision=st.sampled_from(["approved", "denied"]), commits=st.booleans())
    def somebody_decides(self, data: st.DataObject, decision: str, commits: bool) -> None:
        asked = data.draw(st.sampled_from([t for t in self.sent if t.approval == "pending"]))
        approval = asked.model_copy(update={"approval": decision, "by": "ada", "why": "so"})
        step = self.bench.core.on_trigger(self.bench.record(TRIGGERS, approval.encode()))
        self.write(step, commits=commits)

    @rule(garbage=st.binary(max_size=40), commits=st.booleans())
    def garbage_comes(self, garbage: bytes, commits: bool) -> None:
        topic = TRIGGERS if commits else COMMANDS
        record = self.bench.record(topic, garbage)
        take = self.bench.core.on_trigger if commits else self.bench.core.on_command
        (output,) = take(record).outputs
        assert output.topic.name == "dead-letters"

    # --- runs ---

    @precondition(lambda self: self.bench.runs.waits())
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0]), commits=st.booleans())
    def labels_are_there(self, data: st.DataObject, share: float, commits: bool) -> None:
        wait = data.draw(st.sampled_from(self.bench.runs.waits()))
        self.bench.now_ms += 10
        frozen = FrozenWindow(ends={0: 100}, labels=int(wait.needed * share), now_ms=self.bench.now_ms)
        self.write(self.bench.runs.ready(wait.run_id, frozen), commits=commits)

    @precondition(lambda self: self.bench.runs.startable(()))
    @rule(commits=st.booleans() | st.just(True))
    def the_next_starts(self, commits: bool) -> None:
        run = self.bench.runs.startable(())
        assert run is not None
        self.write(self.bench.runs.start(run.run_id), commits=commits)

    @precondition(lambda self: any(run.status == "training" for run in self.open_runs))
    @rule()
    def it_is_evaluated(self) -> None:
        (run,) = self.active()
        self.bench.commit(self.bench.runs.evaluating(run.run_id))

    @precondition(lambda self: self.active())
    @rule(
        found=st.sampled_from(["better", "better", "better", "worse", "nothing", "crash"]),
        commits=st.booleans() | st.just(True),
    )
    def it_ends(self, found: str, commits: bool) -> None:
        (run,) = self.active()
        self.artifacts += 1
        if found == "crash":
            step = self.bench.runs.failed(run.run_id, "signal 9", {})
        else:
            ended = trained(passed=found == "better", learned=found != "nothing", artifact=self.artifacts)
            step = self.bench.runs.finished(run.run_id, ended)
        wins = found == "better" and run.champion == self.expected.champion and not self.expected.pinned
        if self.write(step, commits=commits) and wins:
            self.expected = self.expected.promoted()

    @precondition(lambda self: not self.active())
    @rule()
    def a_run_goes_all_its_way(self) -> None:
        """So that there are versions to quarrel about."""
        self.a_trigger_comes("manual", "automatic", 0, False, True)
        run = self.bench.run_of(self.sent[-1])
        self.bench.freeze(run)
        while not self.active():
            self.the_next_starts(True)
        self.it_ends("better", True)

    # --- people ---

    @rule(
        action=st.sampled_from(ACTIONS),
        version=st.none() | st.integers(1, 4),
        behind=st.sampled_from([None, None, 0, 1]),
        commits=st.booleans() | st.just(True),
    )
    def a_person_commands(
        self, action: Action, version: int | None, behind: int | None, commits: bool
    ) -> None:
        looked_at = None if behind is None else max(0, self.expected.generation - behind)
        command = self.bench.make_command(action, version=version, generation=looked_at)
        record = self.bench.record(COMMANDS, command.encode())
        wanted = self.bench.core.manifest_request(record)
        manifest = None
        if wanted is not None:
            manifest = next(m for m in self.bench.manifests.values() if sha_of(m) == wanted.sha256)
        step = self.bench.core.on_command(record, manifest)
        try:
            _refuse(looked_at not in (None, self.expected.generation))
            after, status = self.expected.after(action, version), "done"
        except Refused:
            after, status = self.expected, "refused"
        results = [output.event for output in step.outputs if output.topic.name == "command-results"]
        assert [result.status for result in results] == [status]  # type: ignore[attr-defined]
        if self.write(step, commits=commits):
            self.expected = after
            assert not self.bench.core.on_command(record, manifest), "a command that comes twice does nothing"

    @rule(compacted=st.booleans())
    def it_crashes(self, compacted: bool) -> None:
        self.bench.core = self.bench.rebuilt(compacted=compacted)

    # --- what always holds ---

    @invariant()
    def what_is_served_is_what_the_oracle_says(self) -> None:
        serving = self.bench.runs.registrar.serving
        expected = self.expected
        assert (serving.champion, serving.generation) == (expected.champion, expected.generation)
        assert (serving.pinned, set(serving.blocked)) == (expected.pinned, expected.blocked)
        assert serving.last_version == max(expected.parents, default=0)
        assert [update.generation for update in self.bench.of(ModelUpdate)] == list(
            range(1, expected.generation + 1)
        )

    @invariant()
    def every_run_lives_by_the_table(self) -> None:
        newest: dict[str, RunStatus] = {}
        for run in self.bench.of(TrainingRun):
            last = newest.get(run.run_id)
            assert run.status in BORN if last is None else (last, run.status) in MOVES
            newest[run.run_id] = run.status
        assert len(self.active()) <= 1
        assert {run.run_id for run in self.open_runs} == {
            run_id for run_id, status in newest.items() if status in (*ACTIVE, "waiting")
        }

    @invariant()
    def a_version_is_given_once(self) -> None:
        given: dict[int, str] = {}
        for update in self.bench.of(ModelUpdate):
            champion = update.plan.champion
            if champion is not None:
                sha256 = given.setdefault(champion.version, champion.manifest_sha256)
                assert sha256 == champion.manifest_sha256
        promoted = [run.version for run in self.bench.of(TrainingRun) if run.status == "promoted"]
        assert promoted == sorted(set(promoted), key=lambda version: version or 0)

    @invariant()
    def the_log_is_the_state(self) -> None:
        if len(self.bench.log) == self.checked:
            return
        self.checked = len(self.bench.log)
        again = self.bench.rebuilt(compacted=self.checked % 2 == 0)
        assert _state(again) == _state(self.bench.core)


def _state(core: TrainerCore) -> tuple[object, ...]:
    model = core.model(MODEL)
    runs = {run.run_id: run for run in model.open_runs()}
    return runs, model.registrar.serving, model.registrar.champion


TrainerMachine.TestCase.settings = effort(runs=40, steps=40)
TestTrainer = TrainerMachine.TestCase


@pytest.mark.parametrize("cause", ["promote", "reject", "evaluate"])
def test_a_waiting_run_cannot_be_moved_past_its_training(cause: str) -> None:
    bench = Bench()
    run = bench.run_of(bench.trigger("manual"))
    moves = {
        "promote": lambda: bench.runs.finished(run.run_id, trained()),
        "reject": lambda: bench.runs.finished(run.run_id, trained(passed=False)),
        "evaluate": lambda: bench.runs.evaluating(run.run_id),
    }
    with pytest.raises(IllegalTransition):
        moves[cause]()
