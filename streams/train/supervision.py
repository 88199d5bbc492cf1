"""Supervise what happens outside the cores for open runs: label counts and executions.

Each turn looks at everything again (which runs wait, which are trained, what was found for them), so a turn
whose transaction was aborted loses nothing: the next one finds the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .core import TrainerCore
from .model_runs import ModelRuns
from .run_lifecycle import ACTIVE
from .step import NOTHING, Step
from .window.watch import OutcomeWatch
from .worker import Execution, TrainingWorker

LONGEST_PROGRESS_S = 10.0
PROGRESS_SHARE = 1000  # a run that has waited long publishes once per thousandth of that time


@dataclass(slots=True)
class _Waiting:
    since: float
    published: float = 0.0


class RunSupervision:
    """The watch over outcomes and the workers that train, for all models of this trainer."""

    def __init__(self, watch: OutcomeWatch, workers: list[TrainingWorker], *, progress_s: float) -> None:
        """``progress_s``: a run's progress is published at most that often, and less when it waited long."""
        self._watch = watch
        self._workers = workers
        self._progress_s = progress_s
        self._executions: dict[str, Execution] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._starting: list[str] = []  # in this turn's transaction

    @property
    def busy(self) -> bool:
        """Whether anything may report at any moment."""
        return bool(self._executions or self._waiting)

    def collect(self, core: TrainerCore) -> Step:
        """Collect what happened to the core's runs since the last turn."""
        step = NOTHING
        for model in core.models():
            step += self._counted(model) + self._executed(model) + self._started(model)
        return step

    def reconcile(self, models: list[ModelRuns]) -> None:
        """After the commit: begin what it started, and do what ``adopt`` does."""
        starting, self._starting = self._starting, []
        self.adopt(models)
        for model in models:
            for run_id in starting:
                if model.run(run_id) is not None:
                    self._begin(model, run_id)
        self._watch.check()
        for worker in self._workers:
            worker.check()

    def adopt(self, models: list[ModelRuns]) -> None:
        """Keep the executions of active runs, cancel the others, and watch outcomes for waiting runs."""
        self._starting.clear()
        open_runs = {run.run_id: run for model in models for run in model.open_runs()}
        for run_id, execution in list(self._executions.items()):
            run = open_runs.get(run_id)
            if run is None or run.status not in ACTIVE or run.attempt != execution.plan.run.attempt:
                execution.cancel()
                del self._executions[run_id]
        self._waiting = {run_id: since for run_id, since in self._waiting.items() if run_id in open_runs}
        self._watch.want(request for model in models for request in model.waits())

    def close(self) -> None:
        for execution in self._executions.values():
            execution.cancel()
        self._watch.close()
        for worker in self._workers:
            worker.close()

    # --- parts ------------------------------------------------------------------------------------------

    def _counted(self, model: ModelRuns) -> Step:
        step = NOTHING
        for request in model.waits():
            now = time.monotonic()
            waiting = self._waiting.setdefault(request.run_id, _Waiting(since=now))
            found = self._watch.progress(request.run_id)
            if found is None:
                continue
            if found.frozen is not None:
                step += model.ready(request.run_id, found.frozen)
            elif now - waiting.published >= self._interval_s(now - waiting.since):
                progressed = model.progressed(request.run_id, found.labels, found.offsets)
                if progressed:
                    waiting.published = now
                step += progressed
        return step

    def _interval_s(self, waited_s: float) -> float:
        return min(LONGEST_PROGRESS_S, max(self._progress_s, waited_s / PROGRESS_SHARE))

    def _executed(self, model: ModelRuns) -> Step:
        step = NOTHING
        for run in model.open_runs():
            execution = self._executions.get(run.run_id)
            if execution is None:
                continue
            if execution.failure is not None:
                failed = model.failed(run.run_id, execution.failure, execution.timings_ms)
                step += Step(execution.dead_letters) + failed
            elif execution.trained is not None:
                step += Step(execution.dead_letters) + model.finished(run.run_id, execution.trained)
            elif execution.evaluating and run.status == "training":
                step += model.evaluating(run.run_id)
        return step

    def _started(self, model: ModelRuns) -> Step:
        if sum(worker.idle for worker in self._workers) <= len(self._starting):
            return NOTHING
        run = model.startable(self._executions)
        if run is None:
            return NOTHING
        self._starting.append(run.run_id)
        return model.start(run.run_id)

    def _begin(self, model: ModelRuns, run_id: str) -> None:
        worker = next(worker for worker in self._workers if worker.idle)
        waiting = self._waiting.get(run_id)
        waited_ms = (time.monotonic() - waiting.since) * 1000 if waiting is not None else 0.0
        execution = Execution(model.job(run_id), waited_ms)
        self._executions[run_id] = execution
        worker.begin(execution)
