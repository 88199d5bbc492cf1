"""Random histories of one model: wherever the trainer dies, nothing is given twice, lost or forked.

After each step the core is compared with one that was rebuilt from what it wrote: its state is the log's.
"""

from __future__ import annotations

from collections.abc import Callable

from driftloop.schemas.control import RunControl, UpdateControl
from driftloop.schemas.decisions import Action, CommandResult, Trigger
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.streams.train.run_lifecycle import ACTIVE, OPEN, TRANSITIONS
from driftloop.streams.train.window.window import FrozenWindow
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.train.core import CHANGE, MODEL, Bench, draft, trained

ACTIONS: tuple[Action, ...] = ("promote", "rollback", "pin", "unpin", "block", "retire", "register")
MOVES = {(start, end) for (start, _), end in TRANSITIONS.items()}
LOST = st.integers(0, 5).map(lambda number: number == 0)  # the transaction of a step aborts


class TrainerHistories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.executing: set[str] = set()
        self.triggers: list[Trigger] = []
        self.artifacts = 1000

    def _step(self, take: Callable[[], object], *, lost: bool) -> None:
        """``lost``: it happened, and its transaction was aborted, so it did not."""
        length, made = len(self.bench.log), dict(self.bench.manifests)
        take()
        if lost:
            del self.bench.log[length:]
            self.bench.manifests = made
            self.bench.abort()
        self.executing &= {run.run_id for run in self.bench.runs.open_runs() if run.status in ACTIVE}

    def _waiting(self) -> list[str]:
        return [request.run_id for request in self.bench.runs.waits()]

    # --- what may happen ----------------------------------------------------------------------------------

    @rule(
        reason=st.sampled_from(["drift", "volume", "schedule", "manual"]),
        version=st.integers(0, 4),
        current=st.booleans(),
        changed=st.booleans(),
        approval=st.sampled_from(["automatic", "automatic", "pending"]),
        lost=LOST,
    )
    def a_trigger_comes(
        self, reason: str, version: int, current: bool, changed: bool, approval: str, lost: bool
    ) -> None:
        trigger = self.bench.make_trigger(
            reason,
            version=self.bench.champion if current else version,
            estimated_change=CHANGE if changed else None,
            approval=approval,
        )
        self._step(lambda: self.bench.send(trigger), lost=lost)
        if not lost:
            self.triggers.append(trigger)

    @precondition(lambda self: self.triggers)
    @rule(data=st.data(), decision=st.sampled_from([None, "approved", "denied"]), lost=LOST)
    def a_trigger_comes_again(self, data: st.DataObject, decision: str | None, lost: bool) -> None:
        trigger = data.draw(st.sampled_from(self.triggers))
        if decision is not None and trigger.approval == "pending":
            trigger = trigger.model_copy(update={"approval": decision, "by": "ada"})
        self._step(lambda: self.bench.send(trigger), lost=lost)

    @precondition(lambda self: self._waiting())
    @rule(data=st.data(), labels=st.integers(0, 1000), lost=LOST)
    def labels_are_counted(self, data: st.DataObject, labels: int, lost: bool) -> None:
        run_id = data.draw(st.sampled_from(self._waiting()))
        self._step(
            lambda: self.bench.commit(self.bench.runs.progressed(run_id, labels, {"0": labels})), lost=lost
        )

    @precondition(lambda self: self._waiting())
    @rule(data=st.data(), labels=st.integers(50, 1000), lost=LOST)
    def a_window_is_found(self, data: st.DataObject, labels: int, lost: bool) -> None:
        run_id = data.draw(st.sampled_from(self._waiting()))
        self.bench.now_ms += 10
        frozen = FrozenWindow(ends={0: labels}, labels=labels, now_ms=self.bench.now_ms)
        self._step(lambda: self.bench.commit(self.bench.runs.ready(run_id, frozen)), lost=lost)

    @rule(lost=LOST)
    def the_next_run_starts(self, lost: bool) -> None:
        run = self.bench.runs.startable(self.executing)
        if run is not None:
            self._step(lambda: self.bench.commit(self.bench.runs.start(run.run_id)), lost=lost)
            if not lost and self.bench.runs.run(run.run_id) is not None:
                self.executing.add(run.run_id)

    @precondition(lambda self: self.executing)
    @rule(found=st.sampled_from(["evaluating", "better", "better", "worse", "nothing", "crashed"]), lost=LOST)
    def an_execution_reports(self, found: str, lost: bool) -> None:
        (run_id,) = self.executing
        runs = self.bench.runs
        run = runs.run(run_id)
        assert run is not None
        self.artifacts += 1

        def take() -> None:
            if found == "crashed":
                self.bench.commit(runs.failed(run_id, "signal 9", {}))
            elif found == "evaluating":
                if run.status == "training":
                    self.bench.commit(runs.evaluating(run_id))
            else:
                result = trained(
                    passed=found == "better", learned=found != "nothing", artifact=self.artifacts
                )
                self.bench.commit(runs.finished(run_id, result))

        self._step(take, lost=lost)
        if lost:
            self.executing.discard(run_id)  # its child died with the trainer

    @rule(
        action=st.sampled_from(ACTIONS),
        version=st.one_of(st.none(), st.integers(1, 5)),
        seen=st.sampled_from(["current", "older", "whatever"]),
        lost=LOST,
    )
    def a_command_comes(self, action: Action, version: int | None, seen: str, lost: bool) -> None:
        generation = {
            "current": self.bench.generation,
            "older": self.bench.generation - 1,
            "whatever": None,
        }[seen]
        command = self.bench.make_command(
            action, version=version, generation=generation, manifest_sha256="a" * 64
        )
        self.artifacts += 1
        before, length = self.bench.runs.registrar.serving, len(self.bench.log)

        def take() -> None:
            result = self.bench.order(command, draft(self.artifacts))
            if seen == "older":
                assert result.status == "refused"
            if result.status == "refused":
                assert self.bench.runs.registrar.serving == before
                assert len(self.bench.log) == length + 1
            else:
                assert result.generation == before.generation + 1

        self._step(take, lost=lost)

    @rule(compacted=st.booleans())
    def the_trainer_dies(self, compacted: bool) -> None:
        self.executing.clear()
        self.bench.core = self.bench.rebuilt(compacted=compacted)

    # --- what must hold -----------------------------------------------------------------------------------

    @invariant()
    def the_state_is_the_log_s(self) -> None:
        now, again = self.bench.runs, self.bench.rebuilt(compacted=True).model(MODEL)
        assert now.registrar.serving == again.registrar.serving
        assert {run.run_id: run for run in now.open_runs()} == {run.run_id: run for run in again.open_runs()}
        for version in range(1, now.registrar.serving.last_version + 1):
            assert now.registrar.version(version) == again.registrar.version(version)

    @invariant()
    def no_run_is_forked(self) -> None:
        newest: dict[str, TrainingRun] = {}
        for run in self.bench.of(TrainingRun):
            known = newest.get(run.run_id)
            if known is not None:
                assert (known.status, run.status) in MOVES
                assert (known.trigger_id, known.stage) == (run.trigger_id, run.stage)
            newest[run.run_id] = run
        stages = [(run.trigger_id, run.stage) for run in newest.values()]
        assert len(stages) == len(set(stages))
        for run in newest.values():
            assert (run.version is not None) == (run.status == "promoted")

    @invariant()
    def versions_and_generations_have_no_gap_and_no_repeat(self) -> None:
        updates = self.bench.of(ModelUpdate)
        assert [update.generation for update in updates] == list(range(1, len(updates) + 1))
        named: dict[int, str] = {}
        highest = 0
        for update in updates:
            assert update.last_version in (highest, highest + 1)
            highest = update.last_version
            ref = update.plan.champion
            if ref is not None:
                assert named.setdefault(ref.version, ref.manifest_sha256) == ref.manifest_sha256
                assert ref.version <= highest
                assert ref.version not in update.blocked
        made = [run.version for run in self.bench.of(TrainingRun) if run.version is not None]
        assert sorted(made) == list(range(1, highest + 1))

    @invariant()
    def every_update_is_reported_to_the_monitor(self) -> None:
        reported = [(word.generation, word.version) for word in self.bench.of(UpdateControl)]
        written = [
            (update.generation, update.plan.champion.version if update.plan.champion else 0)
            for update in self.bench.of(ModelUpdate)
        ]
        assert reported == written

    @invariant()
    def the_end_of_every_run_that_the_policy_waits_for_is_reported(self) -> None:
        reported = {word.run_id for word in self.bench.of(RunControl)}
        registered = {event.command_id for event in self.bench.of(CommandResult)}
        for run in self.bench.newest().values():
            if run.status not in OPEN and run.approval != "pending" and run.trigger_id not in registered:
                assert run.run_id in reported

    @invariant()
    def one_run_at_a_time_and_runs_of_one_trigger_wait(self) -> None:
        runs = self.bench.runs.open_runs()
        assert sum(run.status in ACTIVE for run in runs) <= 1
        waiting = {run.trigger_id for run in runs if run.status == "waiting" and run.approval != "pending"}
        assert len(waiting) <= 1

    @invariant()
    def nothing_is_promoted_by_a_run_while_pinned(self) -> None:
        pinned = False
        for event in self.bench.log:
            if isinstance(event, ModelUpdate):
                assert not (pinned and event.cause.startswith("run-"))
                pinned = event.pinned


TestTrainerHistories = TrainerHistories.TestCase
TestTrainerHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
