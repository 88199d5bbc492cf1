"""Wall clocks of the roles, moved while they run, by libfaketime, where it is installed."""

from __future__ import annotations

from pathlib import Path

_PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
HOUR_S = 3_600
MISSING = "libfaketime is not installed (apt-get install libfaketime): no clock is moved"


class Clocks:
    """One file per role says by how much its clock is off. Monotonic clocks and file times stay true."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = [file for place in _PLACES for file in Path("/").glob(place[1:])]
        self._library = found[0] if found else None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def available(self) -> bool:
        return self._library is not None

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
