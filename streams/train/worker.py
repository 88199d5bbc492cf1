"""Carry out one run at a time: read its window, train and evaluate in a child, store the artifact.

This is a thread with a consumer of its own. Its work can be repeated: it writes only into the run's own
folder and, by digest, into the artifact store; nothing is visible before the shell's transaction.

On failure: what concerns the run (a child that crashed, a time limit, an artifact that does not match its
digest) fails the run, with the reason. If Kafka cannot be read, it tries again for as long as the run may
take. A defect is raised in the shell by ``check``.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from confluent_kafka import KafkaException

from ...models.evaluation.result import ExperimentResult
from ...models.formats.learners import refuse_unlisted
from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import Verifier
from ...schemas.errors import BrokerError, Error
from ...schemas.reasons.disk import disk_reason, is_full
from ...schemas.serving import Manifest
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets
from ..kafka.ranges import Cancelled, LogRanges
from .child.job import (
    ARTIFACT,
    CHAMPION,
    EVALUATING,
    JOB,
    RESULT,
    ROWS,
    Trained,
    TrainingJob,
    write_rows,
)
from .child.process import ChildPool, TrainingProcess
from .model_runs import JobPlan
from .step import Output
from .window.cache import OutcomeCache
from .window.reader import OutcomeReader, RunWindow

log = logging.getLogger(__name__)

RETRY_S = 1.0
_BUFFER_BYTES = 2**20  # half the CPU of the default for 60,000 rows


class Execution:
    """One attempt at one run. The worker fills it in, the shell reads it and may cancel it."""

    def __init__(self, plan: JobPlan, waited_ms: float) -> None:
        self.plan = plan
        self.evaluating = False
        self.trained: Trained | None = None
        self.failure: str | None = None
        self.dead_letters: tuple[Output, ...] = ()
        self.timings_ms: dict[str, float] = {"wait_labels": waited_ms}
        self.cancelled = threading.Event()
        self._child: TrainingProcess | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        with self._lock:
            self.cancelled.set()
            if self._child is not None:
                self._child.kill()

    def use(self, child: TrainingProcess | None) -> None:
        """Set the child that ``cancel`` must kill. Raises Cancelled if that was called before."""
        with self._lock:
            self._child = child
            if child is not None and self.cancelled.is_set():
                raise Cancelled


@dataclass
class TrainingWorker:
    """A thread that carries out executions one after the other, each in a folder below ``folder``."""

    connection: Connection
    offsets: LogOffsets
    store: ArtifactStore
    verifier: Verifier
    children: ChildPool
    folder: Path
    cache: OutcomeCache
    memory_bytes: int
    custom_learners: frozenset[str]

    def __post_init__(self) -> None:
        self._queue: SimpleQueue[Execution | None] = SimpleQueue()
        self._working = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="driftloop-train", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        return not self._working.is_set()

    def begin(self, execution: Execution) -> None:
        """Start an execution; call only while idle."""
        self._working.set()
        self._queue.put(execution)

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self, timeout_s: float = 2.0) -> None:
        """End the thread; cancel what it works on first."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        ranges = LogRanges(self.connection, name="window")
        self.children.warm()
        try:
            while (execution := self._queue.get()) is not None:
                self._carry_out(execution, ranges)
                self._working.clear()
        except BaseException as failure:  # noqa: BLE001  # handed to the shell, which raises it
            self._failure = failure
        finally:
            ranges.close()

    def _carry_out(self, execution: Execution, ranges: LogRanges) -> None:
        run = execution.plan.run
        folder = self.folder / f"{run.run_id}-{run.attempt}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._prepare(execution, folder, ranges)
            execution.trained = self._train(execution, folder)
        except (Cancelled, Error, OSError) as error:
            if isinstance(error, Cancelled) or execution.cancelled.is_set():
                log.info("run %s was cancelled", run.run_id)
            else:
                where = f"{folder} cannot be written: " if is_full(error) else ""
                execution.failure = where + disk_reason(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _prepare(self, execution: Execution, folder: Path, ranges: LogRanges) -> None:
        started = time.monotonic()
        plan = execution.plan
        refuse_unlisted(plan.spec.learner, self.custom_learners)
        champion = self._champion(plan, folder)
        window = self._read_window(execution, ranges)
        with (folder / ROWS).open("wb", buffering=_BUFFER_BYTES) as file:
            write_rows(file, "before", window.rows.before.values())
            write_rows(file, "after", window.rows.after.values())
        job = TrainingJob(
            kind="experiment",
            spec=plan.spec.model_dump(mode="json"),
            seed=plan.spec.seed,
            manifest=champion,
            used_seqs={str(partition): last for partition, last in plan.used_seqs.items()},
            memory_bytes=self.memory_bytes,
        )
        (folder / JOB).write_bytes(job.encode())
        execution.dead_letters = tuple(window.dead_letters)
        execution.timings_ms["read_window"] = (time.monotonic() - started) * 1000

    def _champion(self, plan: JobPlan, folder: Path) -> Manifest | None:
        if plan.champion is None:
            return None
        manifest = self.store.get_manifest(plan.run.model, plan.champion.manifest_sha256)
        self.verifier.verify(manifest)
        data = self.store.get_artifact(plan.run.model, manifest.artifact_sha256)
        (folder / CHAMPION).write_bytes(data)
        return manifest

    def _read_window(self, execution: Execution, ranges: LogRanges) -> RunWindow:
        plan = execution.plan
        progress = plan.run.progress
        ends = {int(p): end for p, end in progress.outcome_offsets.items()} if progress is not None else {}
        deadline = time.monotonic() + plan.spec.window.time_limit / 1000
        while True:
            try:
                reader = OutcomeReader(self.offsets, ranges, execution.cancelled, self.cache)
                return reader.window(plan.window, ends, plan.starts)
            except (BrokerError, KafkaException) as error:
                if time.monotonic() > deadline:
                    raise BrokerError(f"the window could not be read: {error}") from error
                log.warning("run %s: reading its window again: %s", plan.run.run_id, error)
                if execution.cancelled.wait(RETRY_S):
                    raise Cancelled from error

    def _train(self, execution: Execution, folder: Path) -> Trained:
        times = execution.timings_ms
        started = time.monotonic()
        with self.children.one() as child:
            try:
                execution.use(child)
                child.await_ready()
                times["spawn"] = (time.monotonic() - started) * 1000
                started = time.monotonic()
                for line in child.work(folder, execution.plan.spec.window.time_limit / 1000):
                    if line == EVALUATING:
                        times["train"] = (time.monotonic() - started) * 1000
                        started = time.monotonic()
                        execution.evaluating = True
                times["evaluate" if execution.evaluating else "train"] = (time.monotonic() - started) * 1000
            finally:
                execution.use(None)
        result = ExperimentResult.decode((folder / RESULT).read_bytes())
        return self._stored(execution, result, folder)

    def _stored(self, execution: Execution, result: ExperimentResult, folder: Path) -> Trained:
        started = time.monotonic()
        sha256, size = None, 0
        if result.passed:
            data = (folder / ARTIFACT).read_bytes()
            sha256, size = self.store.put_artifact(execution.plan.run.model, data), len(data)
        execution.timings_ms["publish"] = (time.monotonic() - started) * 1000
        return Trained(
            result=result, artifact_sha256=sha256, artifact_bytes=size, timings_ms=execution.timings_ms
        )
