"""A role as a process, started as a person starts it: ``python -m driftloop join`` and the like."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from driftloop.infra.parent_death import die_with_parent

_STOP_S = 20.0


class RestartedRole:
    """One process of a role, started again when it has ended, as a supervisor does."""

    def __init__(
        self, python: Path, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path
    ) -> None:
        self.exits = 0
        self._command = [str(python), "-m", "driftloop", *arguments]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def tend(self, *, wanted: bool = True) -> None:
        """Start it unless it runs; ``wanted``: whether it has anything to do."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self.exits += code not in (0, -signal.SIGKILL)
        self._process = self._started() if wanted else None

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Ask it to stop; after 20 s, kill it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
