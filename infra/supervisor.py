"""The supervisor of ``driftloop up`` and the demo starts, restarts and stops roles and prefixes their output.

A role that dies is restarted after a pause (``restarts``). Children die with their parent, even if that is
killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

from .parent_death import die_with_parent
from .restarts import Restarts, shown_exit

STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RoleProcess:
    """A role's process: the arguments of ``driftloop``, and what is added to its environment."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class _Child:
    role: RoleProcess
    process: subprocess.Popen[str]
    reader: threading.Thread
    restarts: Restarts


class Supervisor:
    """Runs roles until it is stopped. ``say(role, line)`` is called with every line they print."""

    def __init__(self, roles: tuple[RoleProcess, ...], say: Callable[[str, str], None]) -> None:
        self._roles = roles
        self._say = say
        self._children: dict[str, _Child] = {}

    def start(self) -> None:
        for role in self._roles:
            self._children[role.name] = self._spawn(role, Restarts(time.monotonic()))

    def run(self, stop: threading.Event, check: Callable[[], None] = lambda: None) -> None:
        """Watch until ``stop`` is set or ``check`` raises, then stop all roles."""
        try:
            while not stop.wait(0.2):
                self.watch()
                check()
        finally:
            self.stop()

    def watch(self) -> None:
        """Restart the roles that have died and whose pause is over. Call it often."""
        now = time.monotonic()
        for name, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                continue
            pause_s = child.restarts.ended(now)
            if pause_s is not None:
                self._say(name, f"ended with {shown_exit(code)}; restarting in {pause_s:g} s")
            elif child.restarts.due(now):
                child.restarts.started(now)
                self._children[name] = self._spawn(child.role, child.restarts)

    def pid(self, name: str) -> int:
        """The process id of a role."""
        return self._children[name].process.pid

    def stop(self) -> None:
        """SIGTERM to all, a shared deadline, then SIGKILL to what is left."""
        running = [child for child in self._children.values() if child.process.poll() is None]
        for child in running:
            child.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for child in running:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(child.role.name, f"did not stop within {STOP_TIMEOUT_S:g} s: killed")
                child.process.kill()
                child.process.wait()
        for child in self._children.values():
            child.reader.join(timeout=1.0)
        self._children.clear()

    def _spawn(self, role: RoleProcess, restarts: Restarts) -> _Child:
        process = subprocess.Popen(
            [sys.executable, "-m", "driftloop", *role.arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **role.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C then reaches only the supervisor, which stops them
            preexec_fn=die_with_parent(),
        )
        assert process.stdout is not None
        reader = threading.Thread(target=self._forward, args=(role.name, process.stdout), daemon=True)
        reader.start()
        return _Child(role, process, reader, restarts)

    def _forward(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            self._say(name, line.rstrip("\n"))
