"""One training child, from the trainer's side: started ahead of time, given one job, killed in time."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..schemas.errors import Error
from .training_job import DONE, READY

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 120.0  # imports on a machine that is busy with everything else
TAIL_BYTES = 2000
_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ChildFailed(Error):
    """The child crashed, took too long or was called off; the message says which."""


class TrainingProcess:
    """A child that imports its libraries while nobody waits for it."""

    def __init__(self, errors: Path) -> None:
        """``errors``: where its stderr goes; the file is removed with the child."""
        self._errors = errors
        errors.parent.mkdir(parents=True, exist_ok=True)
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "driftloop.streams.training_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
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
        """Raises ChildFailed when it does not get there."""
        if not self._ready:
            deadline = time.monotonic() + READY_TIMEOUT_S
            if self._line(deadline, "starting") != READY:
                raise ChildFailed(f"the training process did not start: {self._tail()}")
            self._ready = True

    def work(self, folder: Path, time_limit_s: float) -> Iterator[bytes]:
        """Gives it its job and yields what it reports, up to the end of its work. Raises ChildFailed."""
        self.await_ready()
        deadline = time.monotonic() + time_limit_s
        self._send(os.fsencode(folder) + b"\n")
        while True:
            line = self._line(deadline, f"time limit of {time_limit_s:g} s")
            if line == DONE:
                return
            yield line

    def kill(self) -> None:
        """From any thread; whoever reads then gets ChildFailed."""
        self._process.kill()

    def close(self) -> None:
        """Ends it and removes what it left."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.unlink(missing_ok=True)

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(self._how_it_ended()) from None

    def _line(self, deadline: float, doing: str) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                self._process.kill()
                raise ChildFailed(f"{doing} exceeded")
            data = os.read(stdout, 4096)
            if not data:
                raise ChildFailed(self._how_it_ended())
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the training process ended with {how}: {self._tail()}".removesuffix(": ")

    def _tail(self) -> str:
        try:
            with self._errors.open("rb") as file:
                file.seek(max(0, self._errors.stat().st_size - TAIL_BYTES))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


class ChildPool:
    """Keeps one child warm. ``take`` gives it away; ``warm`` starts the next one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._spare: TrainingProcess | None = None
        self._started = 0
        self._closed = False

    def warm(self) -> None:
        """Starts a spare child unless there is one. For when nobody trains: importing takes a core."""
        with self._lock:
            if not self._closed:
                self._spare = self._living_spare() or self._spawn()

    def take(self) -> TrainingProcess:
        """The caller closes it."""
        with self._lock:
            child, self._spare = self._living_spare(), None
            return child or self._spawn()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._spare is not None:
                self._spare.close()
                self._spare = None

    def _living_spare(self) -> TrainingProcess | None:
        if self._spare is not None and not self._spare.alive:
            log.warning("a spare training process died before it had work; another takes its place")
            self._spare.close()
            self._spare = None
        return self._spare

    def _spawn(self) -> TrainingProcess:
        self._started += 1
        return TrainingProcess(self._folder / f"child-{self._started}.err")


def _environment() -> dict[str, str]:
    """Ours without what says how to reach Kafka: a learner has no business there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
    return {name: "1" for name in _SINGLE_THREADED} | kept
