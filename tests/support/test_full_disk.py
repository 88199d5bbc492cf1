"""The disk that can be full: it fills, takes writes again, and leaves no mount behind."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.full_disk import FullDisk
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.full_disk import FullDisk
disk = FullDisk(Path(sys.argv[1]))
assert disk.available
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_full_until_it_is_freed_and_gone_when_closed(disk: FullDisk, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    disk.fill()
    with pytest.raises(OSError, match="No space") as raised:
        (folder / "much").write_bytes(b"x" * (100 << 16))
    assert raised.value.errno == errno.ENOSPC
    disk.free()
    (folder / "more").write_bytes(b"x" * (1 << 20))
    disk.close()
    assert not folder.is_mount()


@pytest.mark.usefixtures("disk")  # where no disk can be mounted, there is nothing to leave behind
def test_a_process_that_is_killed_leaves_no_mount(tmp_path: Path) -> None:
    folder = tmp_path / "of the process"
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    wait_until(lambda: not folder.is_mount())
