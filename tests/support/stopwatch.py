"""Seconds for tests of a promise about time, on a machine that may be busy or slow."""

from __future__ import annotations

import random
import subprocess
import threading
import time
import zlib

_WORK = random.Random(1).randbytes(1_000_000)
_AT_REST_S = 0.02  # what compressing it takes on one core of a server with nothing else to do
_EVERY_S = 0.1


class Stopwatch:
    """Measures a block in seconds of a machine at rest.

    A thread repeats a fixed piece of work meanwhile, outside the interpreter's lock. The block counts as many
    times shorter as that work takes longer than it should.
    """

    def __enter__(self) -> Stopwatch:
        self._works: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._began
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._works or not self._ended.wait(_EVERY_S):
            began = time.perf_counter()
            zlib.compress(_WORK)
            self._works.append(time.perf_counter() - began)

    @property
    def slowness(self) -> float:
        """How many times slower than at rest the machine was; at least 1."""
        return max(1.0, sum(self._works) / len(self._works) / _AT_REST_S)

    @property
    def seconds(self) -> float:
        return self.wall_s / self.slowness


def stopped(process: subprocess.Popen[bytes] | subprocess.Popen[str], code: int = 0) -> float:
    """Ask the process to stop; return the seconds it took. It must end with ``code``."""
    with Stopwatch() as watch:
        process.terminate()
        assert process.wait(120) == code
    return watch.seconds
