"""The process that trains: ``python -m driftloop.streams.training_child``.

It imports the learning libraries, says that it is ready, waits for one job (its folder's path, a line on
stdin), does it and ends. Started ahead of time, so that a run does not wait for imports (2 s of CPU). It ends
when its stdin closes, so it never outlives the trainer, however that ended. Whatever a learner prints goes to
stderr: nothing but this file writes to the protocol's pipe.

On failure: its exit code is not 0 and its stderr says why; nothing it left behind is looked at.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..models.experiment import ExperimentInput, ExperimentResult, package_versions, run_experiment
from ..models.loaders import load
from ..models.rows import LabelledRow, rows_from_outcomes
from ..models.self_test import check_self_test
from ..schemas.errors import Error
from ..schemas.spec import ModelSpec
from .training_job import (
    ARTIFACT,
    CHAMPION,
    DONE,
    EVALUATING,
    JOB,
    READY,
    RESULT,
    ROWS,
    Side,
    TrainingJob,
    TrainingResult,
    read_rows,
)

Say = Callable[[bytes], None]


def main() -> None:
    say = _protocol()
    _import_learners()
    say(READY)
    folder = sys.stdin.buffer.readline().strip()
    if not folder:
        return
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    run_job(Path(os.fsdecode(folder)), say)
    say(DONE)


def run_job(folder: Path, say: Say) -> None:
    """Does the job in ``folder`` and writes its result there."""
    job = TrainingJob.decode((folder / JOB).read_bytes())
    try:
        result = _self_test(folder, job) if job.kind == "self-test" else _experiment(folder, job, say)
    except Error as error:
        result = TrainingResult(passed=False, why=str(error))
    (folder / RESULT).write_bytes(result.encode())


def _experiment(folder: Path, job: TrainingJob, say: Say) -> TrainingResult:
    spec = ModelSpec.model_validate(job.spec)
    before, after = _rows(folder, spec, job)
    taught = {int(partition): last for partition, last in job.taught.items()}
    given = ExperimentInput(
        spec=spec,
        rows_before_change=tuple(before),
        rows_after_change=tuple(after),
        champion=None if job.manifest is None else (job.manifest, (folder / CHAMPION).read_bytes()),
        seed=job.seed,
        champion_saw=frozenset(
            row.prediction_id for row in after if row.seq <= taught.get(row.partition, -1)
        ),
    )
    found = run_experiment(given, on_trained=lambda: say(EVALUATING))
    if found.passed and found.candidate is not None:
        (folder / ARTIFACT).write_bytes(found.candidate.data)
    return _result(found)


def _rows(folder: Path, spec: ModelSpec, job: TrainingJob) -> tuple[list[LabelledRow], list[LabelledRow]]:
    values: dict[tuple[Side, int], list[bytes]] = {}
    for side, partition, value in read_rows(folder / ROWS):
        values.setdefault((side, partition), []).append(value)
    classes = job.manifest.classes if job.manifest is not None else None
    rows: dict[Side, list[LabelledRow]] = {"before": [], "after": []}
    for side, partition in sorted(values):
        of_partition = values.pop((side, partition))
        rows[side] += rows_from_outcomes(of_partition, spec, partition=partition, classes=classes)
    return rows["before"], rows["after"]


def _result(found: ExperimentResult) -> TrainingResult:
    fitted = found.candidate
    return TrainingResult(
        passed=found.passed,
        why=found.why,
        learned=fitted is not None,
        format=fitted.format if fitted is not None else None,
        features=fitted.features if fitted is not None else (),
        classes=fitted.classes if fitted is not None else None,
        lineage=found.lineage,
        metrics=found.metrics,
        gates=found.gates,
        reference=found.reference,
        self_test=found.self_test,
        learner=found.learner,
        parameters=found.parameters,
        packages=package_versions(),
        timings_ms=found.timings_ms,
    )


def _self_test(folder: Path, job: TrainingJob) -> TrainingResult:
    if job.manifest is None:
        return TrainingResult(passed=False, why="there is no manifest to test")
    check_self_test(load(job.manifest, (folder / ARTIFACT).read_bytes()), job.manifest.self_test)
    return TrainingResult(passed=True, why="")


def _protocol() -> Say:
    """The pipe that was stdout; from here on fd 1 is stderr, also for libraries written in C."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(line: bytes) -> None:
        pipe.write(line + b"\n")

    return say


def _import_learners() -> None:
    """What the learners import when first used takes longer than many a training."""
    from ..models import hgb, onnx_model, river_learner  # noqa: F401  # pyright: ignore[reportUnusedImport]


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
