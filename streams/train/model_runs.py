"""The runs of one model: triggers become runs, runs end in verdicts, verdicts in versions.

- A trigger is accepted once; a newer one supersedes runs of older ones that still wait. A model's runs go one
  after the other, and which one goes first depends on the records alone.
- A run of a drift whose version is no longer the champion is superseded as it comes.
- Follow-ups, with more labels after the change, come when a stage has ended, promoted or not; stages whose
  labels the last one had already are skipped, and a newer trigger's run takes their place.
- When a person changes the champion, what is being trained or judged against the old one is superseded.

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
from .window.window import MIN_LABELS, Clock, Cut, Start, WaitRequest, WindowPlan

MAX_ATTEMPTS = 10  # a run that takes the trainer down with it each time must end some day


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a run needs to be trained: all of it recorded, but for the spec."""

    run: TrainingRun
    spec: ModelSpec
    window: WindowPlan
    champion: VersionRef | None
    taught: dict[int, int]
    starts: Mapping[int, Start] | None


class ModelRuns:
    """All runs of one model that are open, its spec and its registrar."""

    def __init__(self, model: str, signer: Signer, clock: Clock) -> None:
        self.model = model
        self.registrar = Registrar(model, signer)
        self.spec = ModelSpec()
        self._clock: Clock = clock
        self._runs: dict[str, TrainingRun] = {}
        self._ended: set[str] = set()
        self._cuts: dict[str, Cut] = {}
        self._starts: dict[str, Mapping[int, Start] | None] = {}
        self._now_ms = 0

    def restore(self, run: TrainingRun) -> None:
        """A record of training-runs, in the log's order."""
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
        """What outcomes must be watched for."""
        champion = self.registrar.serving.plan.champion
        return [
            WaitRequest(
                run_id=run.run_id,
                plan=self._window(run),
                spec=self.spec,
                needed=_needed(run),
                deadline_ms=run.ts + self.spec.window.max_wait,
                accepted_ms=run.ts,
                manifest_sha256=champion.manifest_sha256 if champion is not None else None,
            )
            for run in self._runs.values()
            if run.status == "waiting" and run.approval != "pending" and run.run_id not in self._cuts
        ]

    def startable(self, executing: Iterable[str]) -> TrainingRun | None:
        """The run to start next: one that a restart cut off, else the oldest whose labels are there."""
        if not self._runs.keys().isdisjoint(executing):
            return None
        active = [run for run in self._runs.values() if run.status in ACTIVE]
        ready = [self._runs[run_id] for run_id in self._cuts]
        return min(active or ready, key=_age, default=None)

    def job(self, run_id: str) -> JobPlan:
        """For a run that has started."""
        run, champion = self._runs[run_id], self.registrar.champion
        return JobPlan(
            run,
            self.spec,
            self._window(run),
            self.registrar.serving.plan.champion,
            dict(champion.taught) if champion is not None else {},
            self._starts.get(run_id),
        )

    def awaits_approval(self, trigger_id: str) -> bool:
        return self._pending(run_id_of(trigger_id)) is not None

    def now_ms(self, append_ms: int) -> int:
        """The time of what a record causes; in the event clock, the newest event time this model has seen."""
        return (self._now_ms or append_ms) if self._clock == "event" else append_ms

    # --- triggers ---------------------------------------------------------------------------------------

    def accept(self, trigger: Trigger, append_ms: int) -> Step:
        run_id = run_id_of(trigger.trigger_id)
        pending = self._pending(run_id)
        if run_id in self._ended:
            return self._told_again(trigger)
        if pending is None and (run_id in self._runs or trigger.approval == "denied"):
            return NOTHING
        if pending is not None and trigger.approval == "pending":
            return NOTHING
        if pending is not None and trigger.approval == "denied":
            why = f"denied by {trigger.by}: {trigger.why}"
            return self._end(pending, "supersede", why=why, told=False)
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

    # --- the run's way ----------------------------------------------------------------------------------

    def progressed(self, run_id: str, labels: int, offsets: dict[str, int]) -> Step:
        run = self._runs[run_id]
        progress = Progress(labels=labels, needed=_needed(run), outcome_offsets=offsets)
        return (
            NOTHING if progress == run.progress else self._record(moved(run, "progress", progress=progress))
        )

    def ready(self, run_id: str, cut: Cut) -> Step:
        """The window's end was found. Too few labels end the run; else it may be started."""
        run = self._runs[run_id]
        if cut.labels >= min(MIN_LABELS, _needed(run)):
            self._cuts[run_id] = cut
            return NOTHING
        why = (
            f"not enough labels: {cut.labels} of {_needed(run)} came in time, and {MIN_LABELS} are the least"
        )
        return self._end(run, "fail", why=why, ts=cut.now_ms)

    def start(self, run_id: str) -> Step:
        """Into training, or into it again. A run that was cut off too often fails instead."""
        run = self._runs[run_id]
        champion = self.registrar.serving.champion
        if run.status == "waiting":
            cut = self._cuts[run_id]
            self._starts[run_id] = cut.starts
            offsets = {str(partition): end for partition, end in sorted(cut.ends.items())}
            progress = Progress(labels=cut.labels, needed=_needed(run), outcome_offsets=offsets)
            started = moved(run, "start", champion=champion, progress=progress, ts=cut.now_ms)
            return self._record(started)
        if run.attempt >= MAX_ATTEMPTS:
            return self._end(run, "fail", why=f"the trainer ended {run.attempt} times while it ran")
        return self._record(moved(run, "restart", attempt=run.attempt + 1))

    def evaluating(self, run_id: str) -> Step:
        return self._record(moved(self._runs[run_id], "evaluate"))

    def failed(self, run_id: str, why: str, timings_ms: dict[str, float]) -> Step:
        return self._end(self._runs[run_id], "fail", why=why, timings_ms=timings_ms, follow=True)

    def finished(self, run_id: str, trained: Trained) -> Step:
        """The verdict. Promoted only if better, unpinned, and judged against who is still the champion."""
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
        return step + self._promote(run, draft, cause=run.run_id, why=result.why, told=True)

    # --- people -----------------------------------------------------------------------------------------

    def register(self, draft: Manifest, *, command_id: str, why: str, ts: int) -> Step:
        """A version that was made elsewhere becomes the champion."""
        champion = self.registrar.serving.champion
        run = registered_run(draft, self.spec, command_id=command_id, champion=champion, why=why, ts=ts)
        return self._promote(run, draft, cause=command_id, why=why, told=False)

    def champion_changed(self, *, but: str = "") -> Step:
        """Ends what was about the old champion, everything where there is none now; not the run ``but``.

        What still waits for labels, whatever the champion, counts anew: some may have taught the new one.
        """
        step, champion = NOTHING, self.registrar.serving.champion
        for run in self.open_runs():
            if run.run_id == but:
                continue
            if run.approval == "pending":  # the policy withdraws its trigger when the champion changes
                step += self._end(run, "supersede", why=self._champion_changed(), told=False)
            elif run.status in ACTIVE or champion == 0 or run.reason == "drift":
                step += self._end(run, "supersede", why=self._champion_changed())
            else:
                self._cuts.pop(run.run_id, None)
        return step

    # --- parts ------------------------------------------------------------------------------------------

    def _is_stale(self, trigger: Trigger) -> bool:
        """Drifts are of a version; a volume without one asks for the first, which may be there by now."""
        first = trigger.reason == "volume" and trigger.version == 0
        return (trigger.reason == "drift" or first) and trigger.version != self.registrar.serving.champion

    def _told_again(self, trigger: Trigger) -> Step:
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
            taught_ends=champion.taught_ends or None if champion is not None else None,
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

    def _promote(self, run: TrainingRun, draft: Manifest, *, cause: str, why: str, told: bool) -> Step:
        made = self.registrar.promote(draft, run_id=run.run_id, cause=cause, why=why, ts=run.ts)
        moot = self.champion_changed(but=run.run_id)
        ended = self._end(
            run,
            "promote",
            why=why,
            version=made.manifest.version,
            artifact_sha256=draft.artifact_sha256,
            manifest_sha256=made.manifest_sha256,
            follow=True,
            told=told,
        )
        return Step(made.outputs, (made.manifest,)) + moot + ended

    def _end(
        self, run: TrainingRun, cause: RunInput, *, follow: bool = False, told: bool = True, **changes: object
    ) -> Step:
        """``follow``: a stage with more labels comes next, if there is one. ``told``: so is the policy."""
        ended = moved(run, cause, **changes)
        outputs = [self._keep(ended)]
        following = self._follow_up(ended) if follow else None
        if told:
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
        """Takes the run's new state over and gives its record."""
        self._now_ms = max(self._now_ms, run.ts)
        if run.status in OPEN:
            self._runs[run.run_id] = run
        else:
            self._runs.pop(run.run_id, None)
            self._starts.pop(run.run_id, None)
            self._ended.add(run.run_id)
            self.registrar.know(run)
        if run.status != "waiting":
            self._cuts.pop(run.run_id, None)
        return Output(TRAINING_RUNS, self.model, run, run.run_id)


def _needed(run: TrainingRun) -> int:
    return run.progress.needed if run.progress is not None else 0


def _age(run: TrainingRun) -> tuple[int, str]:
    return run.trigger_append_ms or 0, run.run_id
