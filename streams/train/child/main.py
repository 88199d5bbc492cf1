"""The process that trains: ``python -m driftloop.streams.train.child.main``.

It imports the learning libraries once (2 s of CPU), reports that it is ready, and waits for jobs: lines on
stdin, each the path of a folder. A fork does the job, so a run waits for no import, starts from the same
state as every other, and can crash only itself. Process and fork end when stdin closes, so they never outlive
the trainer. What a learner prints goes to the job's stderr file: only this module writes to the pipe.

Forking a process that has loaded native libraries is safe on Linux only; elsewhere the job is done without a
fork, and the process ends with it.

On failure: the job is reported as ended with its exit code; of what it left, only its stderr is read.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ....models.evaluation.experiment import ExperimentInput, run_experiment
from ....models.evaluation.result import ExperimentResult
from ....models.formats.loaders import load
from ....models.registry.self_test import check_self_test
from ....models.rows import LabelledRow, rows_from_outcomes
from ....schemas.errors import DecodeError, Error
from ....schemas.events import Outcome
from ....schemas.spec.model import ModelSpec
from .job import (
    ARTIFACT,
    CHAMPION,
    DONE,
    ENDED,
    ERRORS,
    EVALUATING,
    JOB,
    READY,
    RESULT,
    ROWS,
    Side,
    TrainingJob,
    read_rows,
)

Report = Callable[[bytes], None]


def main() -> None:
    report = _protocol()
    _import_learners()
    gc.freeze()  # what was imported stays shared between the forks
    report(READY)
    # Unbuffered: a fork must find nothing read ahead.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        while line := stdin.readline().strip():
            folder = Path(os.fsdecode(line))
            if sys.platform != "linux":
                _do(folder, report)
                return
            pid = os.fork()
            if pid == 0:
                _do_as_fork(folder, report)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            report(DONE if code == 0 else ENDED + str(code).encode())


def _do_as_fork(folder: Path, report: Report) -> NoReturn:
    code = 1
    try:
        _do(folder, lambda line: report(line) if line != DONE else None)
        code = 0
    except BaseException:  # noqa: BLE001  # this process has nobody else to report to
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _do(folder: Path, report: Report) -> None:
    errors = os.open(folder / ERRORS, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(errors, stream)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    run_job(folder, report)
    report(DONE)


def run_job(folder: Path, report: Report) -> None:
    """Do the job in ``folder`` and write its result there."""
    job = TrainingJob.decode((folder / JOB).read_bytes())
    if job.memory_bytes is not None and sys.platform == "linux":
        _limit_memory(job.memory_bytes)
    try:
        result = _self_test(folder, job) if job.kind == "self-test" else _experiment(folder, job, report)
    except Error as error:
        result = ExperimentResult(passed=False, why=str(error))
    (folder / RESULT).write_bytes(result.encode())


def _limit_memory(more: int) -> None:
    """Allow ``more`` bytes than it has already; beyond that, allocations raise MemoryError.

    If the machine runs out before, the kernel ends this process and not the trainer or the broker.
    """
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    with open("/proc/self/status", encoding="ascii") as status:
        held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _experiment(folder: Path, job: TrainingJob, report: Report) -> ExperimentResult:
    spec = ModelSpec.model_validate(job.spec)
    gc.disable()  # the collector would look through all rows again and again while they are made
    before, after = _rows(folder, spec, job)
    gc.freeze()
    gc.enable()
    used = {int(partition): last for partition, last in job.used_seqs.items()}
    given = ExperimentInput(
        spec=spec,
        rows_before_change=tuple(before),
        rows_after_change=tuple(after),
        champion=None if job.manifest is None else (job.manifest, (folder / CHAMPION).read_bytes()),
        seed=job.seed,
        champion_saw=frozenset(row.prediction_id for row in after if row.seq <= used.get(row.partition, -1)),
    )
    found = run_experiment(given, on_trained=lambda: report(EVALUATING))
    if found.passed and found.candidate is not None:
        (folder / ARTIFACT).write_bytes(found.candidate.data)
    return found


def _rows(folder: Path, spec: ModelSpec, job: TrainingJob) -> tuple[list[LabelledRow], list[LabelledRow]]:
    values: dict[tuple[Side, int], list[bytes]] = {}
    for side, partition, value in read_rows(folder / ROWS):
        values.setdefault((side, partition), []).append(value)
    classes = job.manifest.classes if job.manifest is not None else None
    rows: dict[Side, list[LabelledRow]] = {"before": [], "after": []}
    for side, partition in sorted(values):
        of_partition = values.pop((side, partition))
        try:
            rows[side] += rows_from_outcomes(of_partition, spec, partition=partition, classes=classes)
        except DecodeError:
            # Not written by the joiner: such a record must not keep a model from being retrained.
            good = [value for value in of_partition if _is_outcome(value)]
            bad = len(of_partition) - len(good)
            print(f"{bad} records are not outcomes and were left out", file=sys.stderr)
            rows[side] += rows_from_outcomes(good, spec, partition=partition, classes=classes)
    return rows["before"], rows["after"]


def _is_outcome(value: bytes) -> bool:
    try:
        Outcome.decode(value)
    except DecodeError:
        return False
    return True


def _self_test(folder: Path, job: TrainingJob) -> ExperimentResult:
    if job.manifest is None:
        return ExperimentResult(passed=False, why="there is no manifest to test")
    check_self_test(load(job.manifest, (folder / ARTIFACT).read_bytes()), job.manifest.self_test)
    return ExperimentResult(passed=True, why="")


def _protocol() -> Report:
    """Return a writer to the pipe that was stdout; fd 1 becomes stderr, also for libraries written in C."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def report(line: bytes) -> None:
        pipe.write(line + b"\n")

    return report


def _import_learners() -> None:
    """Import what learners need now: on first use it would take longer than many a training."""
    from ....models.formats import hgb, onnx_model, river_learner  # noqa: F401  # pyright: ignore[reportUnusedImport]


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is sent during a job: this returns when the trainer's end of the pipe is closed
    os._exit(1)


if __name__ == "__main__":
    main()
