"""Wall clocks of processes, moved while they run, by a preloaded library of a few lines of C."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

HOUR_S = 3_600
_SOURCE = Path(__file__).with_suffix(".c")
_NANOSECONDS = struct.Struct("=q")


class MovedClocks:
    """One file per process in ``folder`` says by how much its wall clock is off; other clocks stay true.

    ``missing``: why no clock can be moved here, or empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "moved_clock.so"
        folder.mkdir(parents=True, exist_ok=True)
        self.missing = self._build()

    def _build(self) -> str:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            return "no clock is moved: there is no C compiler (apt-get install gcc)"
        options = ("-O1", "-Wall", "-shared", "-fPIC", "-o", self._library, _SOURCE, "-ldl")
        built = subprocess.run([compiler, *options], capture_output=True, text=True, check=False)
        if built.returncode:
            return f"no clock is moved: {_SOURCE.name} cannot be built: {built.stderr}"
        return ""

    def environment(self, name: str) -> dict[str, str]:
        """What a process is started with, so that its clock can be moved later."""
        if self.missing:
            return {}
        self.move(name, 0)
        return {"LD_PRELOAD": str(self._library.absolute()), "MOVED_CLOCK": str(self._file(name).absolute())}

    def move(self, name: str, seconds: float) -> None:
        """Let the process's clock be off by so much, at once."""
        file = self._file(name)
        with file.open("r+b" if file.exists() else "w+b") as opened:  # it is mapped: never another file
            opened.write(_NANOSECONDS.pack(int(seconds * 1e9)))

    def _file(self, name: str) -> Path:
        return self._folder / name
