"""Trainer and registrar against a plain oracle: triggers, runs, people, crashes and aborts in any order.

The oracle knows versions, their parents, who is champion, what is blocked and whether it is pinned. Wherever
the trainer dies, nothing is given twice, lost or forked: the log must tell a legal life of every run, and a
core made from the log is the core that wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from driftloop.schemas.control import RunControl, UpdateControl
from driftloop.schemas.decisions import Action, CommandResult, Trigger
from driftloop.schemas.errors import IllegalTransition
from driftloop.schemas.runs import RunStatus, TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.topics import COMMANDS, TRIGGERS
from driftloop.streams.train.core import TrainerCore
from driftloop.streams.train.run_lifecycle import ACTIVE, OPEN, TRANSITIONS
from driftloop.streams.train.step import Step
from driftloop.streams.train.window.window import FrozenWindow
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.fuzz import effort
from tests.support.train.core import CHANGE, MODEL, TrainerBench, draft, sha_of, spec, trained

MOVES = {(start, end) for (start, _), end in TRANSITIONS.items()}
BORN: set[RunStatus] = {"waiting", "superseded"}  # the latter: it was about a version that is gone
ACTIONS: tuple[Action, ...] = ("promote", "rollback", "pin", "unpin", "block", "retire", "register")
COMMITS = st.integers(0, 5).map(bool)  # else the transaction of a step aborts


class Refused(Exception):
    """The oracle says no."""


@dataclass(frozen=True)
class ExpectedServing:
    """What is served, as simply as it can be."""

    champion: int = 0
    generation: int = 0
    pinned: bool = False
    blocked: frozenset[int] = frozenset()
    parents: dict[int, int] = field(default_factory=dict[int, int])

    def promoted(self) -> ExpectedServing:
        version = max(self.parents, default=0) + 1
        return replace(
            self,
            champion=version,
            generation=self.generation + 1,
            parents=self.parents | {version: self.champion},
        )

    def after(self, action: Action, version: int | None) -> ExpectedServing:
        """Raise Refused."""
        if action == "register":
            return self.promoted()
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

    def _serving(self, version: int) -> ExpectedServing:
        _refuse(version not in self.parents or version in self.blocked or version == self.champion)
        return replace(self, champion=version)

    def _without(self, version: int) -> ExpectedServing:
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
        self.bench = TrainerBench(model_spec=spec())
        self.expected = ExpectedServing()
        self.sent: list[Trigger] = []
        self.executing: set[str] = set()  # runs that have a child
        self.artifacts = 1000
        self.checks = 0

    def write(self, step: Step, *, commits: bool) -> bool:
        if commits:
            self.bench.commit(step)
        else:
            self.bench.abort()
        self.executing &= {run.run_id for run in self.open_runs if run.status in ACTIVE}
        return commits

    @property
    def open_runs(self) -> list[TrainingRun]:
        return self.bench.runs.open_runs()

    # --- triggers ---

    @rule(
        reason=st.sampled_from(["drift", "volume", "manual", "schedule"]),
        approval=st.sampled_from(["automatic", "automatic", "pending"]),
        version=st.none() | st.integers(0, 4),
        changed=st.booleans(),
        commits=COMMITS,
    )
    def a_trigger_comes(
        self, reason: str, approval: str, version: int | None, changed: bool, commits: bool
    ) -> None:
        trigger = self.bench.make_trigger(
            reason,
            approval=approval,
            version=self.bench.champion if version is None else version,
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
    @rule(data=st.data(), labels=st.integers(0, 1000), commits=COMMITS)
    def labels_are_counted(self, data: st.DataObject, labels: int, commits: bool) -> None:
        wait = data.draw(st.sampled_from(self.bench.runs.waits()))
        self.write(self.bench.runs.progressed(wait.run_id, labels, {"0": labels}), commits=commits)

    @precondition(lambda self: self.bench.runs.waits())
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, 2.0]), commits=COMMITS)
    def labels_are_there(self, data: st.DataObject, share: float, commits: bool) -> None:
        wait = data.draw(st.sampled_from(self.bench.runs.waits()))
        self.bench.now_ms += 10
        frozen = FrozenWindow(ends={0: 100}, labels=int(wait.needed * share), now_ms=self.bench.now_ms)
        self.write(self.bench.runs.ready(wait.run_id, frozen), commits=commits)

    @precondition(lambda self: self.bench.runs.startable(self.executing))
    @rule(commits=COMMITS)
    def the_next_starts(self, commits: bool) -> None:
        run = self.bench.runs.startable(self.executing)
        assert run is not None
        if self.write(self.bench.runs.start(run.run_id), commits=commits) and self.bench.runs.run(run.run_id):
            self.executing.add(run.run_id)

    @precondition(lambda self: self.executing)
    @rule(
        found=st.sampled_from(["evaluating", "better", "better", "better", "worse", "nothing", "crash"]),
        commits=COMMITS,
    )
    def its_child_reports(self, found: str, commits: bool) -> None:
        runs = self.bench.runs
        (run,) = (run for run in self.open_runs if run.run_id in self.executing)
        if found == "evaluating" and run.status != "training":
            return
        self.artifacts += 1
        if found == "evaluating":
            step = runs.evaluating(run.run_id)
        elif found == "crash":
            step = runs.failed(run.run_id, "signal 9", {})
        else:
            ended = trained(passed=found == "better", learned=found != "nothing", artifact=self.artifacts)
            step = runs.finished(run.run_id, ended)
        wins = found == "better" and run.champion == self.expected.champion and not self.expected.pinned
        if not self.write(step, commits=commits):
            self.executing.clear()  # the child died with the trainer
        elif wins:
            self.expected = self.expected.promoted()

    @precondition(lambda self: not self.executing)
    @rule()
    def a_run_goes_all_its_way(self) -> None:
        """So that there are versions to quarrel about."""
        self.a_trigger_comes("manual", "automatic", None, False, True)
        run = self.bench.run_of(self.sent[-1])
        self.bench.freeze(run)
        while not self.executing:
            self.the_next_starts(True)
        self.its_child_reports("better", True)

    # --- people ---

    @rule(
        action=st.sampled_from(ACTIONS),
        version=st.none() | st.integers(1, 5),
        behind=st.sampled_from([None, None, 0, 1]),
        commits=COMMITS,
    )
    def a_person_commands(
        self, action: Action, version: int | None, behind: int | None, commits: bool
    ) -> None:
        looked_at = None if behind is None else max(0, self.expected.generation - behind)
        command = self.bench.make_command(
            action, version=version, generation=looked_at, manifest_sha256="a" * 64
        )
        record = self.bench.record(COMMANDS, command.encode())
        wanted = self.bench.core.manifest_request(record)
        manifest = None
        if wanted is not None and wanted.draft:
            self.artifacts += 1
            manifest = draft(self.artifacts)
        elif wanted is not None:
            manifest = next(m for m in self.bench.manifests.values() if sha_of(m) == wanted.sha256)
        step = self.bench.core.on_command(record, manifest)
        try:
            _refuse(looked_at not in (None, self.expected.generation))
            after, status = self.expected.after(action, version), "done"
        except Refused:
            after, status = self.expected, "refused"
        results = [output.event for output in step.outputs if isinstance(output.event, CommandResult)]
        assert [result.status for result in results] == [status]
        if self.write(step, commits=commits):
            self.expected = after
            assert not self.bench.core.on_command(record, manifest), "a command that comes twice does nothing"

    @rule(compacted=st.booleans())
    def it_crashes(self, compacted: bool) -> None:
        self.executing.clear()
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
    def every_run_lives_by_the_table_and_none_is_forked(self) -> None:
        newest: dict[str, TrainingRun] = {}
        for run in self.bench.of(TrainingRun):
            last = newest.get(run.run_id)
            if last is None:
                assert run.status in (BORN if not run.trigger_id.startswith("command-") else {"promoted"})
            else:
                assert (last.status, run.status) in MOVES
                assert (last.trigger_id, last.stage) == (run.trigger_id, run.stage)
            newest[run.run_id] = run
        stages = [(run.trigger_id, run.stage) for run in newest.values()]
        assert len(stages) == len(set(stages))
        assert all((run.version is not None) == (run.status == "promoted") for run in newest.values())
        assert {run.run_id for run in self.open_runs} == {
            run_id for run_id, run in newest.items() if run.status in OPEN
        }

    @invariant()
    def one_run_at_a_time_and_runs_of_one_trigger_wait(self) -> None:
        assert sum(run.status in ACTIVE for run in self.open_runs) <= 1
        waiting = [run for run in self.open_runs if run.status == "waiting" and run.approval != "pending"]
        assert len({run.trigger_id for run in waiting}) <= 1

    @invariant()
    def versions_have_no_gap_and_no_repeat_and_none_passes_a_pin(self) -> None:
        named: dict[int, str] = {}
        highest, pinned = 0, False
        for update in self.bench.of(ModelUpdate):
            assert update.last_version in (highest, highest + 1)
            highest = update.last_version
            champion = update.plan.champion
            if champion is not None:
                sha256 = named.setdefault(champion.version, champion.manifest_sha256)
                assert sha256 == champion.manifest_sha256
                assert champion.version <= highest
                assert champion.version not in update.blocked
            assert not (pinned and update.cause.startswith("run-"))
            pinned = update.pinned
        made = [run.version for run in self.bench.of(TrainingRun) if run.version is not None]
        assert made == list(range(1, highest + 1))

    @invariant()
    def updates_are_reported_to_the_monitor_and_ends_of_runs_to_the_policy(self) -> None:
        updates = [
            (update.generation, update.plan.champion.version if update.plan.champion else 0)
            for update in self.bench.of(ModelUpdate)
        ]
        assert [(word.generation, word.version) for word in self.bench.of(UpdateControl)] == updates
        reported = {word.run_id for word in self.bench.of(RunControl)}
        registered = {event.command_id for event in self.bench.of(CommandResult)}
        for run in self.bench.newest().values():
            if run.status not in OPEN and run.approval != "pending" and run.trigger_id not in registered:
                assert run.run_id in reported

    @invariant()
    def the_log_is_the_state(self) -> None:
        self.checks += 1
        assert _state(self.bench.rebuilt(compacted=self.checks % 2 == 0)) == _state(self.bench.core)


def _state(core: TrainerCore) -> tuple[object, ...]:
    model = core.model(MODEL)
    runs = {run.run_id: run for run in model.open_runs()}
    registrar = model.registrar
    versions = [registrar.version(version) for version in range(1, registrar.serving.last_version + 1)]
    return runs, registrar.serving, registrar.champion, versions


TrainerMachine.TestCase.settings = effort(runs=150, steps=40)
TestTrainer = TrainerMachine.TestCase


@pytest.mark.parametrize("cause", ["promote", "reject", "evaluate"])
def test_a_waiting_run_cannot_be_moved_past_its_training(cause: str) -> None:
    bench = TrainerBench()
    run = bench.run_of(bench.trigger("manual"))
    moves = {
        "promote": lambda: bench.runs.finished(run.run_id, trained()),
        "reject": lambda: bench.runs.finished(run.run_id, trained(passed=False)),
        "evaluate": lambda: bench.runs.evaluating(run.run_id),
    }
    with pytest.raises(IllegalTransition):
        moves[cause]()
