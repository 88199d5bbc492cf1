"""The roles as processes, started as a person starts them: ``driftloop join`` and the like.

Nobody restarts them but this: a process that ends though no fault asked it to is noted with its last words,
and started again after a second, as ``driftloop up`` would.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from driftloop.infra.parent_death import die_with_parent

_PAUSE_S = 1.0
_STOP_S = 20.0
_LAST_WORDS = 12


@dataclass(slots=True)
class SoakProcess:
    """One instance of a role."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    start_at: float | None = None  # monotonic; None: nothing is planned
    stopped_until: float | None = None
    started_at: float = 0.0
    starts: int = 0

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None and self.stopped_until is None


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended by itself."""

    name: str
    code: int
    seconds: float
    last_words: str


@dataclass(slots=True)
class Processes:
    """Starts, kills, freezes and thaws. Call ``tick`` often: it does what has become due."""

    folder: Path
    environment: Mapping[str, str]
    roles: dict[str, SoakProcess] = field(default_factory=dict[str, SoakProcess])
    ended: list[Ended] = field(default_factory=list[Ended])

    def add(self, name: str, *arguments: str, extra: Mapping[str, str] | None = None) -> SoakProcess:
        """Starts a role; its name is its DRIFTLOOP_INSTANCE_ID."""
        environment = {**os.environ, **self.environment, **(extra or {}), "DRIFTLOOP_INSTANCE_ID": name}
        role = SoakProcess(name, arguments, environment, self.folder / f"{name}.log")
        self.roles[name] = role
        self._start(role)
        return role

    def kill(self, name: str, then_start_in: float | None) -> None:
        """kill -9. ``then_start_in`` None: it does not come back."""
        role = self.roles[name]
        _end(role, signal.SIGKILL)
        role.start_at = None if then_start_in is None else time.monotonic() + then_start_in
        if then_start_in == 0.0:
            self._start(role)

    def freeze(self, name: str, seconds: float) -> None:
        role = self.roles[name]
        if role.process is not None and role.process.poll() is None:
            role.process.send_signal(signal.SIGSTOP)
            role.stopped_until = time.monotonic() + seconds

    def remove(self, name: str, number: signal.Signals) -> None:
        """Ends a role for good."""
        _end(self.roles.pop(name), number)

    def tick(self) -> None:
        now = time.monotonic()
        for role in list(self.roles.values()):
            if role.stopped_until is not None and now >= role.stopped_until:
                role.stopped_until = None
                if role.process is not None:
                    role.process.send_signal(signal.SIGCONT)
            if role.start_at is not None:
                if now >= role.start_at:
                    self._start(role)
            elif role.process is not None and (code := role.process.poll()) is not None:
                self.ended.append(Ended(role.name, code, now - role.started_at, _last_words(role.log)))
                role.start_at = now + _PAUSE_S

    def all_run(self) -> bool:
        return all(role.runs for role in self.roles.values())

    def stop(self, wanted: Callable[[str], bool] = lambda _name: True) -> dict[str, float]:
        """SIGTERM to all of these at once; how long each took to end. What does not end is killed."""
        took: dict[str, float] = {}
        leaving = [role for role in self.roles.values() if wanted(role.name)]
        begin = time.monotonic()
        for role in leaving:
            role.start_at = None
            if role.process is not None and role.process.poll() is None:
                role.process.send_signal(signal.SIGCONT)
                role.process.terminate()
        for role in leaving:
            if role.process is None:
                continue
            try:
                role.process.wait(max(0.1, begin + _STOP_S - time.monotonic()))
                took[role.name] = round(time.monotonic() - begin, 2)
            except subprocess.TimeoutExpired:
                took[role.name] = float("inf")
                role.process.kill()
                role.process.wait()
            del self.roles[role.name]
        return took

    def _start(self, role: SoakProcess) -> None:
        role.start_at = None
        role.started_at = time.monotonic()
        role.starts += 1
        with role.log.open("ab") as output:
            output.write(f"--- start {role.starts} at {time.time():.3f}\n".encode())
            output.flush()
            role.process = subprocess.Popen(
                [sys.executable, "-m", *role.arguments],
                env=dict(role.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )


def _end(role: SoakProcess, number: signal.Signals) -> None:
    role.start_at = role.stopped_until = None
    process = role.process
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.send_signal(number)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(log: Path) -> str:
    text = log.read_text("utf-8", "replace").rpartition("--- start ")[2]
    lines = [line for line in text.splitlines() if not line.startswith("%")]  # librdkafka's own
    return "\n".join(lines[-_LAST_WORDS:])
