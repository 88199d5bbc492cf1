"""A disk that can be full: a tmpfs over a folder, shrunk to what it holds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SIZE = 1 << 30
MISSING = "no tmpfs can be mounted here (that takes root): no disk is full"


class FullDisk:
    """Mounted over ``folder`` if the machine lets us; ``available`` says so. ``close`` unmounts it.

    On failure: a process that is killed has it unmounted too, by a child that outlives it for that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.available = _ran("mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder))
        self._unmounts: subprocess.Popen[bytes] | None = None
        if self.available:  # ``cat`` ends when the other end of the pipe is closed, by whatever closes it
            command = ["sh", "-c", 'cat; umount --lazy "$0"', str(folder)]
            self._unmounts = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def fill(self) -> int:
        """Leave no free block; return how many bytes are used."""
        used = os.statvfs(self._folder)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize
        self._resize(size)
        return size

    def free(self) -> None:
        """Give the space back."""
        self._resize(_SIZE)

    def close(self) -> None:
        if self._unmounts is not None:
            self._unmounts.communicate()

    def _resize(self, size: int) -> None:
        # A tmpfs of size 0 would have no limit; one that grew meanwhile refuses to shrink and is asked again.
        for spare in (0, 1 << 16, 1 << 20):
            if _ran("mount", "-o", f"remount,size={max(size + spare, 4096)}", str(self._folder)):
                return
        raise RuntimeError(f"{self._folder} cannot be resized to {size} bytes")


def _ran(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
