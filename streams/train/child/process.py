"""The training process as its trainer sees it: kept warm, given one job at a time, killed when due."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ....schemas.errors import Error
from .job import DONE, ENDED, ERRORS, READY

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 120.0  # imports on a machine that is busy with everything else
TAIL_BYTES = 2000
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ChildFailed(Error):
    """The job crashed, took too long or was cancelled; the message says which."""


class TrainingProcess:
    """A process with the learning libraries loaded; each job is a fork of it."""

    def __init__(self, errors: Path) -> None:
        """``errors``: the file for its stderr, removed by ``close``."""
        self._errors = errors
        errors.parent.mkdir(parents=True, exist_ok=True)
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "driftloop.streams.train.child.main"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,  # a group of its own, killed as a whole
            )
        self._unread = b""
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def await_ready(self) -> None:
        """Wait until it is ready. Raises ChildFailed if it does not get there."""
        if not self._ready:
            deadline = time.monotonic() + READY_TIMEOUT_S
            if self._line(deadline, "starting", self._errors) != READY:
                raise ChildFailed(f"the training process did not start: {_tail(self._errors)}")
            self._ready = True

    def work(self, folder: Path, time_limit_s: float) -> Iterator[bytes]:
        """Run a job and yield what it reports until it is done. Raises ChildFailed."""
        self.await_ready()
        deadline = time.monotonic() + time_limit_s
        self._send(os.fsencode(folder) + b"\n")
        while True:
            line = self._line(deadline, f"time limit of {time_limit_s:g} s", folder / ERRORS)
            if line == DONE:
                return
            if line.startswith(ENDED):
                raise ChildFailed(_end_message(int(line.removeprefix(ENDED)), folder / ERRORS))
            yield line

    def kill(self) -> None:
        """Kill it, from any thread; waiting for it then raises ChildFailed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it and remove what it left."""
        if self.alive:
            self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._errors.unlink(missing_ok=True)

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(_end_message(self._process.wait(), self._errors)) from None

    def _line(self, deadline: float, doing: str, errors: Path) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                self.kill()
                raise ChildFailed(f"{doing} exceeded")
            data = os.read(stdout, 4096)
            if not data:
                raise ChildFailed(_end_message(self._process.wait(), errors))
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class ChildPool:
    """A pool of warm training processes: a job takes one and returns it if it is still alive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[TrainingProcess] = []
        self._started = 0
        self._closed = False

    def warm(self) -> None:
        """Start one if none is idle."""
        with self._lock:
            if not self._idle and not self._closed:
                self._idle.append(self._spawn())

    @contextmanager
    def one(self) -> Generator[TrainingProcess]:
        """Lend a process for one job."""
        with self._lock:
            living = [child for child in self._idle if child.alive]
            for child in self._idle:
                if child not in living:
                    log.warning("an idle training process died; another takes its place")
                    child.close()
            child = living.pop() if living else self._spawn()
            self._idle = living
        keep = False
        try:
            yield child
            keep = True
        finally:
            self._give_back(child, keep=keep)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for child in self._idle:
                child.close()
            self._idle = []

    def _give_back(self, child: TrainingProcess, *, keep: bool) -> None:
        """Take a process back; one that was killed or may still be busy is replaced."""
        with self._lock:
            if keep and child.alive and not self._closed:
                self._idle.append(child)
                return
        child.close()
        self.warm()

    def _spawn(self) -> TrainingProcess:
        self._started += 1
        return TrainingProcess(self._folder / f"child-{self._started}.err")


def physical_bytes() -> int:
    """The machine's memory, or what this container may have of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return physical  # no container, or one of another kind
    return min(physical, int(allowed)) if allowed.isdigit() else physical


def _end_message(code: int, errors: Path) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the training process ended with {how}: {_tail(errors)}".removesuffix(": ")


def _tail(errors: Path) -> str:
    try:
        with errors.open("rb") as file:
            file.seek(max(0, errors.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _environment() -> dict[str, str]:
    """Our environment without the settings of Kafka: a learner must not reach it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
    return {name: "1" for name in _SINGLE_THREADED} | kept
