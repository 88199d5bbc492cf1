"""Wall clocks of the roles, moved while they run, by libfaketime, where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
HOUR_S = 3_600
MISSING = "no clock is moved: libfaketime is missing (apt-get install libfaketime), or breaks sleeping"
# 0.9.10 with FAKETIME_DONT_FAKE_MONOTONIC fails every time.sleep of Python with EINVAL, even at +0. Without
# it the monotonic clock jumps too, which no machine's does. Either would blame the roles for the harness.
_PROBE = """
import sys, time
from pathlib import Path
begin = time.monotonic()
Path(sys.argv[1]).write_text("-3600\\n")
for _ in range(30):
    time.sleep(0.05)
assert 1.0 < time.monotonic() - begin < 600.0
"""


class Clocks:
    """One file per role says by how much its clock is off. Monotonic clocks and file times stay true."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = [file for place in _PLACES for file in Path("/").glob(place[1:])]
        self._library = found[0] if found else None
        folder.mkdir(parents=True, exist_ok=True)
        if self._library is not None and not self._keeps_sleep():
            self._library = None

    @property
    def available(self) -> bool:
        return self._library is not None

    def _keeps_sleep(self) -> bool:
        """Whether a process can sleep, and its monotonic clock stays true, while its wall clock jumps."""
        environment = {**os.environ, **self.environment("probe")}
        command = [sys.executable, "-c", _PROBE, str(self._file("probe"))]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    def environment(self, name: str) -> dict[str, str]:
        """What a role is started with, so that its clock can be moved later."""
        if self._library is None:
            return {}
        self.move(name, 0)
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def move(self, name: str, seconds: int) -> None:
        """Let the clock of a role be off by so much, within a second."""
        new = self._file(name).with_suffix(".new")
        new.write_text(f"{seconds:+d}\n", "utf-8")
        new.replace(self._file(name))

    def _file(self, name: str) -> Path:
        return self._folder / name
