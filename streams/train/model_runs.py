"""The runs of one model: triggers become runs, and runs that pass their gates become versions.

- A trigger is accepted once; a newer one supersedes runs of older ones that still wait. A model's runs are
  carried out one after the other, in an order that depends on the records alone.
- A run of a drift whose version is no longer the champion is superseded at once.
- Follow-ups, with more labels after the change, begin when a stage has ended, promoted or not. Stages whose
  labels the last one already had are skipped; a newer trigger's run replaces them.
- When a person changes the champion, runs that train or evaluate against the old one are superseded.

On failure: an exception means a defect of driftloop or an illegal move; the shell then aborts its transaction
and rebuilds everything from the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...models.registry.signing import Signer
from ...schemas.decisions import Trigger
from ...schemas.runs import Progress, TrainingRun
from ...schemas.serving import Manifest, VersionRef
from ...schemas.spec.model import ModelSpec
from ...schemas.topics import TRAINING_RUNS
from .child.job import Trained
from .registrar import Registrar
from .run_lifecycle import ACTIVE, OPEN, RunInput, moved
from .run_records import (
    draft_manifest,
    end_of_run,
    first_stage,
    follow_up,
    registered_run,
    run_id_of,
    with_evidence,
)
from .step import NOTHING, Output, Step, control
from .window.window import MIN_LABELS, Clock, FrozenWindow, WaitRequest, WindowPlan, WindowStart

MAX_ATTEMPTS = 10  # a run that crashes the trainer each time must not be tried forever


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a run needs to be trained. All but the spec is recorded."""

    run: TrainingRun
    spec: ModelSpec
    window: WindowPlan
    champion: VersionRef | None
    used_seqs: dict[int, int]
    starts: Mapping[int, WindowStart] | None


class ModelRuns:
    """The open runs of one model, its spec and its registrar."""

    def __init__(self, model: str, signer: Signer, clock: Clock) -> None:
        self.model = model
        self.registrar = Registrar(model, signer)
        self.spec = ModelSpec()
        self._clock: Clock = clock
        self._runs: dict[str, TrainingRun] = {}
        self._ended: set[str] = set()
        self._frozen: dict[str, FrozenWindow] = {}
        self._starts: dict[str, Mapping[int, WindowStart] | None] = {}
        self._now_ms = 0

    def restore(self, run: TrainingRun) -> None:
        """Apply a record of training-runs; call in the log's order."""
        self._keep(run)

    # --- what the shell asks ----------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether any run is open."""
        return bool(self._runs)

    def run(self, run_id: str) -> TrainingRun | None:
        """An open run."""
        return self._runs.get(run_id)

    def open_runs(self) -> list[TrainingRun]:
        return list(self._runs.values())

    def waits(self) -> list[WaitRequest]:
        """The windows that are to be found in outcomes."""
        champion = self.registrar.serving.plan.champion
        labels = ModelSpec(task=self.spec.task, classes=self.spec.classes)
        return [
            WaitRequest(
                run_id=run.run_id,
                plan=self._window(run),
                spec=labels,
                needed=_needed(run),
                deadline_ms=run.ts + self.spec.window.max_wait,
                accepted_ms=run.ts,
                manifest_sha256=champion.manifest_sha256 if champion is not None else None,
            )
            for run in self._runs.values()
            if run.status == "waiting" and run.approval != "pending" and run.run_id not in self._frozen
        ]

    def startable(self, executing: Iterable[str]) -> TrainingRun | None:
        """The run to start next: one that a restart interrupted, else the oldest whose labels are there."""
        if not self._runs.keys().isdisjoint(executing):
            return None
        active = [run for run in self._runs.values() if run.status in ACTIVE]
        ready = [self._runs[run_id] for run_id in self._frozen]
        return min(active or ready, key=lambda run: (run.trigger_append_ms or 0, run.run_id), default=None)

    def job(self, run_id: str) -> JobPlan:
        """For a run that has started."""
        run, champion = self._runs[run_id], self.registrar.champion
        return JobPlan(
            run,
            self.spec,
            self._window(run),
            self.registrar.serving.plan.champion,
            dict(champion.used_seqs) if champion is not None else {},
            self._starts.get(run_id),
        )

    def awaits_approval(self, trigger_id: str) -> bool:
        return self._pending(run_id_of(trigger_id)) is not None

    def now_ms(self, append_ms: int) -> int:
        """The time of what a record causes; in the event clock, the newest event time of this model."""
        return (self._now_ms or append_ms) if self._clock == "event" else append_ms

    # --- triggers ---------------------------------------------------------------------------------------

    def accept(self, trigger: Trigger, append_ms: int) -> Step:
        run_id = run_id_of(trigger.trigger_id)
        pending = self._pending(run_id)
        if run_id in self._ended:
            return self._end_again(trigger)
        if pending is None and (run_id in self._runs or trigger.approval == "denied"):
            return NOTHING
        if pending is not None and trigger.approval == "pending":
            return NOTHING
        if pending is not None and trigger.approval == "denied":
            why = f"denied by {trigger.by}: {trigger.why}"
            return self._end(pending, "supersede", why=why, report=False)
        champion = self.registrar.serving.champion
        ts = append_ms if self._clock == "append" else trigger.ts
        run = first_stage(trigger, self.spec, champion=champion, append_ms=append_ms, ts=ts)
        if pending is not None:
            run = moved(pending, "approve", **dict(run))
        if self._is_stale(trigger):
            why = f"was about version {trigger.version}, and version {champion} is the champion by now"
            return self._end(run, "supersede", why=why)
        if trigger.approval == "pending":
            return self._record(run)
        return self._supersede_waiting(trigger) + self._record(run)

    # --- a run's progress ----------------------------------------------------------------------------------

    def progressed(self, run_id: str, labels: int, offsets: dict[str, int]) -> Step:
        run = self._runs[run_id]
        progress = Progress(labels=labels, needed=_needed(run), outcome_offsets=offsets)
        return (
            NOTHING if progress == run.progress else self._record(moved(run, "progress", progress=progress))
        )

    def ready(self, run_id: str, frozen: FrozenWindow) -> Step:
        """Take the run's window. With too few labels the run ends; else it may be started."""
        run = self._runs[run_id]
        if frozen.labels >= min(MIN_LABELS, _needed(run)):
            self._frozen[run_id] = frozen
            return NOTHING
        found = f"{frozen.labels} of {_needed(run)}"
        why = f"not enough labels: {found} came in time, and {MIN_LABELS} are the least"
        return self._end(run, "fail", why=why, ts=frozen.now_ms)

    def start(self, run_id: str) -> Step:
        """Move to training, or to it again. A run that was interrupted too often fails instead."""
        run = self._runs[run_id]
        champion = self.registrar.serving.champion
        if run.status == "waiting":
            frozen = self._frozen[run_id]
            self._starts[run_id] = frozen.starts
            offsets = {str(partition): end for partition, end in sorted(frozen.ends.items())}
            progress = Progress(labels=frozen.labels, needed=_needed(run), outcome_offsets=offsets)
            started = moved(run, "start", champion=champion, progress=progress, ts=frozen.now_ms)
            return self._record(started)
        if run.attempt >= MAX_ATTEMPTS:
            return self._end(run, "fail", why=f"the trainer ended {run.attempt} times while it ran")
        return self._record(moved(run, "restart", attempt=run.attempt + 1))

    def evaluating(self, run_id: str) -> Step:
        return self._record(moved(self._runs[run_id], "evaluate"))

    def failed(self, run_id: str, why: str, timings_ms: dict[str, float]) -> Step:
        return self._end(self._runs[run_id], "fail", why=why, timings_ms=timings_ms, follow=True)

    def finished(self, run_id: str, trained: Trained) -> Step:
        """End the run. Promote only if better, not pinned, and compared with the present champion."""
        result, serving = trained.result, self.registrar.serving
        if not result.learned:
            return self.failed(run_id, result.why, trained.timings_ms)
        step = self.evaluating(run_id) if self._runs[run_id].status == "training" else NOTHING
        run = with_evidence(self._runs[run_id], trained, self.spec.seed)
        if run.champion != serving.champion:
            return step + self._end(run, "supersede", why=self._champion_changed())
        if not result.passed:
            return step + self._end(run, "reject", why=result.why, follow=True)
        if serving.pinned:
            why = f"version {serving.champion} is pinned; the candidate was {result.why}"
            return step + self._end(run, "reject", why=why)
        draft = draft_manifest(run, trained, self.spec)
        if draft is None:
            return step + self._end(run, "fail", why="the result lacks what a manifest needs")
        return step + self._promote(run, draft, cause=run.run_id, why=result.why, report=True)

    # --- people -----------------------------------------------------------------------------------------

    def register(self, draft: Manifest, *, command_id: str, why: str, ts: int) -> Step:
        """Make a version that was trained elsewhere the champion."""
        champion = self.registrar.serving.champion
        run = registered_run(draft, self.spec, command_id=command_id, champion=champion, why=why, ts=ts)
        return self._promote(run, draft, cause=command_id, why=why, report=False)

    def champion_changed(self, *, but: str = "") -> Step:
        """End runs about the old champion, or all runs if there is none now; not the run ``but``.

        A run that still waits for labels counts again: the new champion may be trained on some of them.
        """
        step, champion = NOTHING, self.registrar.serving.champion
        for run in self.open_runs():
            if run.run_id == but:
                continue
            if run.approval == "pending":  # the policy withdraws its trigger when the champion changes
                step += self._end(run, "supersede", why=self._champion_changed(), report=False)
            elif run.status in ACTIVE or champion == 0 or run.reason == "drift":
                step += self._end(run, "supersede", why=self._champion_changed())
            else:
                self._frozen.pop(run.run_id, None)
        return step

    # --- parts ------------------------------------------------------------------------------------------

    def _is_stale(self, trigger: Trigger) -> bool:
        """Drifts concern a version; a volume trigger without one asks for the first, which may exist."""
        first = trigger.reason == "volume" and trigger.version == 0
        return (trigger.reason == "drift" or first) and trigger.version != self.registrar.serving.champion

    def _end_again(self, trigger: Trigger) -> Step:
        """A person approved what was withdrawn a moment before: the policy must not wait for it."""
        if trigger.approval != "approved":
            return NOTHING
        run = first_stage(trigger, self.spec, champion=0, append_ms=0, ts=trigger.ts)
        return Step((control(self.model, end_of_run(moved(run, "supersede"), last_stage=True)),))

    def _supersede_waiting(self, newer: Trigger) -> Step:
        step = NOTHING
        for run in self.open_runs():
            if run.status == "waiting" and run.approval != "pending":
                step += self._end(run, "supersede", why=f"trigger {newer.trigger_id} is newer")
        return step

    def _window(self, run: TrainingRun) -> WindowPlan:
        champion = self.registrar.champion
        return WindowPlan(
            model=self.model,
            change=run.change,
            used_ends=champion.used_ends or None if champion is not None else None,
            trigger_append_ms=run.trigger_append_ms or 0,
            max_rows=self.spec.window.max_rows,
            old_rows=self.spec.window.old_rows,
        )

    def _champion_changed(self) -> str:
        now = self.registrar.serving
        return f"the champion changed meanwhile: version {now.champion} since generation {now.generation}"

    def _pending(self, run_id: str) -> TrainingRun | None:
        run = self._runs.get(run_id)
        return run if run is not None and run.approval == "pending" else None

    def _promote(self, run: TrainingRun, draft: Manifest, *, cause: str, why: str, report: bool) -> Step:
        made = self.registrar.promote(draft, run_id=run.run_id, cause=cause, why=why, ts=run.ts)
        superseded = self.champion_changed(but=run.run_id)
        ended = self._end(
            run,
            "promote",
            why=why,
            version=made.manifest.version,
            artifact_sha256=draft.artifact_sha256,
            manifest_sha256=made.manifest_sha256,
            follow=True,
            report=report,
        )
        return Step(made.outputs, (made.manifest,)) + superseded + ended

    def _end(
        self,
        run: TrainingRun,
        cause: RunInput,
        *,
        follow: bool = False,
        report: bool = True,
        **changes: object,
    ) -> Step:
        """``follow``: begin a stage with more labels, if there is one. ``report``: tell the policy."""
        ended = moved(run, cause, **changes)
        outputs = [self._keep(ended)]
        following = self._follow_up(ended) if follow else None
        if report:
            outputs.append(control(self.model, end_of_run(ended, last_stage=following is None)))
        if following is not None:
            outputs.append(self._keep(following))
        return Step(tuple(outputs))

    def _follow_up(self, run: TrainingRun) -> TrainingRun | None:
        serving = self.registrar.serving
        newer = any(other.approval != "pending" for other in self._runs.values())
        return None if serving.pinned or newer else follow_up(run, self.spec, champion=serving.champion)

    def _record(self, run: TrainingRun) -> Step:
        return Step((self._keep(run),))

    def _keep(self, run: TrainingRun) -> Output:
        """Take over the run's new state and return its record."""
        self._now_ms = max(self._now_ms, run.ts)
        if run.status in OPEN:
            self._runs[run.run_id] = run
        else:
            self._runs.pop(run.run_id, None)
            self._starts.pop(run.run_id, None)
            self._ended.add(run.run_id)
            self.registrar.know(run)
        if run.status != "waiting":
            self._frozen.pop(run.run_id, None)
        return Output(TRAINING_RUNS, self.model, run, run.run_id)


def _needed(run: TrainingRun) -> int:
    return run.progress.needed if run.progress is not None else 0
