"""The training process: warm, forked for each job, killed with all it started, gone with its trainer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from driftloop.models.evaluation.result import ExperimentResult
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.train.child.job import (
    ARTIFACT,
    EVALUATING,
    JOB,
    RESULT,
    ROWS,
    TrainingJob,
    read_rows,
    write_rows,
)
from driftloop.streams.train.child.process import ChildFailed, ChildPool

from tests.support.train.learners import custom
from tests.support.train.world import MODEL, outcome, quick_spec
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildPool]:
    """Shared: a new process imports for seconds. So each test also shows that the last left it whole."""
    made = ChildPool(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


def job_folder(folder: Path, spec: ModelSpec, *, rows: int = 300, memory_bytes: int | None = None) -> Path:
    """An experiment without a champion."""
    folder.mkdir()
    values = [(n % 2, outcome(MODEL, n, n // 2, version=0, flipped=False).encode()) for n in range(rows)]
    with (folder / ROWS).open("wb") as file:
        write_rows(file, "after", values)
    job = TrainingJob(kind="experiment", spec=spec.model_dump(mode="json"), seed=7, memory_bytes=memory_bytes)
    (folder / JOB).write_bytes(job.encode())
    return folder


def result_of(folder: Path) -> ExperimentResult:
    return ExperimentResult.decode((folder / RESULT).read_bytes())


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    with (tmp_path / ROWS).open("wb") as file:
        write_rows(file, "before", [(3, b"a"), (0, b"")])
        write_rows(file, "after", [(1, b"x" * 100_000)])
    assert list(read_rows(tmp_path / ROWS)) == [
        ("before", 3, b"a"),
        ("before", 0, b""),
        ("after", 1, b"x" * 100_000),
    ]


def test_one_process_does_job_after_job_and_the_same_job_gives_the_same_candidate(
    pool: ChildPool, tmp_path: Path
) -> None:
    artifacts, lineages, pids = set[bytes](), set[str](), set[int]()
    for name in ("first", "second"):
        folder = job_folder(tmp_path / name, quick_spec())
        with pool.one() as child:
            reports = list(child.work(folder, 60))
            pids.add(child.pid)
        assert reports == [EVALUATING]
        result = result_of(folder)
        assert result.passed, result.why
        assert result.lineage is not None
        artifacts.add((folder / ARTIFACT).read_bytes())
        lineages.add(result.lineage.digest)
    assert (len(artifacts), len(lineages), len(pids)) == (1, 1, 1)


def test_a_crash_of_the_learner_is_reported_with_its_last_words_and_the_process_lives_on(
    pool: ChildPool, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path / "crash", quick_spec(learner=custom("Crashing")))
    with pool.one() as child:
        with pytest.raises(ChildFailed, match=r"ended with signal 6: corrupted double-linked list"):
            list(child.work(folder, 60))
        raising = job_folder(tmp_path / "raise", quick_spec(learner=custom("Raising")))
        with pytest.raises(ChildFailed, match=r"(?s)exit code 1: .*my learner is broken"):
            list(child.work(raising, 60))
        assert list(child.work(job_folder(tmp_path / "good", quick_spec()), 60)) == [EVALUATING]


def test_a_learner_that_eats_memory_fails_alone_and_the_next_job_is_served(
    pool: ChildPool, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path / "hungry", quick_spec(learner=custom("Hungry")), memory_bytes=2**28)
    with pool.one() as child:
        with pytest.raises(ChildFailed, match=r"(?s)exit code 1: .*MemoryError"):
            list(child.work(folder, 60))
        good = job_folder(tmp_path / "good", quick_spec(), memory_bytes=2**30)
        assert list(child.work(good, 60)) == [EVALUATING]
        killed = job_folder(tmp_path / "killed", quick_spec(learner=custom("Killed")))
        with pytest.raises(ChildFailed, match="signal 9"):
            list(child.work(killed, 60))
        assert list(child.work(job_folder(tmp_path / "again", quick_spec()), 60)) == [EVALUATING]


def test_what_a_learner_prints_is_not_taken_for_the_protocol(pool: ChildPool, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", quick_spec(learner=custom("Printing")))
    with pool.one() as child:
        assert list(child.work(folder, 60)) == [EVALUATING]
    assert result_of(folder).passed


def test_past_the_time_limit_the_job_is_killed_and_the_next_one_is_served(
    pool: ChildPool, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    folder = job_folder(tmp_path / "job", quick_spec(learner=custom("Endless", begun=str(begun))))
    with pytest.raises(ChildFailed, match="time limit of 3 s exceeded"), pool.one() as child:
        list(child.work(folder, 3.0))
    wait_until(lambda: not _lives(int(begun.read_text())), what="the fork to be gone")
    with pool.one() as child:
        assert list(child.work(job_folder(tmp_path / "next", quick_spec()), 60)) == [EVALUATING]


def test_a_job_is_called_off_from_another_thread_and_an_idle_process_that_died_is_replaced(
    pool: ChildPool, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    folder = job_folder(tmp_path / "job", quick_spec(learner=custom("Endless", begun=str(begun))))
    with pool.one() as child:
        killer = threading.Thread(target=lambda: (wait_until(begun.exists), child.kill()))
        killer.start()
        with pytest.raises(ChildFailed, match="signal 9"):
            list(child.work(folder, 60))
        killer.join()
    with pool.one() as another:
        assert another.pid != child.pid
        assert list(another.work(job_folder(tmp_path / "next", quick_spec()), 60)) == [EVALUATING]


def test_a_custom_learner_that_is_not_there_is_the_result_s_reason(pool: ChildPool, tmp_path: Path) -> None:
    learner = {"kind": "custom", "factory": "no.such:learner"}
    folder = job_folder(tmp_path / "job", quick_spec(learner=learner))
    with pool.one() as child:
        list(child.work(folder, 60))
    assert not result_of(folder).learned
    assert "no.such:learner" in result_of(folder).why


def test_what_is_not_an_outcome_is_left_out_of_training(pool: ChildPool, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", quick_spec())
    with (folder / ROWS).open("ab") as file:
        write_rows(file, "after", [(0, b'{"model":"world","prediction_id":"x","revision":0,"seq":1}')])
    with pool.one() as child:
        list(child.work(folder, 60))
    result = result_of(folder)
    assert result.passed, result.why
    assert result.lineage is not None
    assert result.lineage.rows == 300


def test_the_learner_does_not_learn_how_to_reach_kafka(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLOOP_KAFKA__SASL_PASSWORD", "secret")
    pool = ChildPool(tmp_path / "children")
    begun = tmp_path / "begun"
    spec = quick_spec(learner=custom("Gated", begun=str(begun), gate=str(begun)))
    with pool.one() as child:
        list(child.work(job_folder(tmp_path / "job", spec), 60))
        environment = Path(f"/proc/{child.pid}/environ").read_bytes()
    pool.close()
    assert b"OMP_NUM_THREADS" in environment
    assert b"DRIFTLOOP_" not in environment


def test_nothing_is_left_running_when_the_trainer_is_killed(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    folder = job_folder(tmp_path / "job", quick_spec(learner=custom("Endless", begun=str(begun))))
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(tmp_path / "children"), str(folder)])
    wait_until(lambda: begun.exists() and begun.read_text(), "the learner to begin")
    fork = int(begun.read_text())
    parent = int(Path(f"/proc/{fork}/stat").read_text().rpartition(")")[2].split()[1])
    assert _lives(fork)
    assert _lives(parent)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    wait_until(lambda: not _lives(fork) and not _lives(parent), what="fork and process to be gone")


TRAINER = """
import sys
from pathlib import Path
from driftloop.streams.train.child.process import ChildPool
with ChildPool(Path(sys.argv[1])).one() as child:
    list(child.work(Path(sys.argv[2]), 60))
"""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
