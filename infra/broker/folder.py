"""The embedded broker's data folder: its lock, and the address of the broker that uses it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from ...schemas.errors import BrokerError

_HANDOVER_S = 15.0
_GLANCE_S = 0.5  # `running_address` of another process holds the lock for an instant


def lock_folder(folder: Path) -> int:
    """Lock the folder for this process and return the lock as a file descriptor.

    The JVMs inherit the descriptor, so the folder stays locked until the last of them has ended. Raises
    BrokerError if another broker has it; waits for one whose owner is gone and whose JVMs are ending.
    """
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(file, folder)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return file


def unlock_folder(file: int) -> None:
    """Unlock the folder, even if a forked process still has the descriptor."""
    fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _acquire(file: int, folder: Path) -> None:
    started = time.monotonic()
    while not _try_lock(file, fcntl.LOCK_EX):
        owner = os.pread(file, 32, 0).decode("ascii", "replace")
        if time.monotonic() - started > (_GLANCE_S if _alive(owner) else _HANDOVER_S):
            raise BrokerError(
                f"{folder} is in use by another broker (process {owner or 'unknown'}): stop that one, use it "
                "through DRIFTLOOP_BOOTSTRAP_SERVERS, or name another data folder"
            )
        time.sleep(0.05)


def _try_lock(file: int, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    return False


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def announce(folder: Path, bootstrap_servers: str) -> None:
    """Write the broker's address for other processes on this machine."""
    (folder / "address").write_text(bootstrap_servers, "utf-8")


def withdraw(folder: Path) -> None:
    """Remove the address, since the broker no longer answers there."""
    (folder / "address").unlink(missing_ok=True)


def running_address(folder: Path) -> str | None:
    """The address of the broker that uses the folder, if there is one."""
    try:
        address = (folder / "address").read_text("utf-8").strip()
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:  # an address without a lock was left by a broker that died
        return None if _try_lock(lock, fcntl.LOCK_SH) else address
    finally:
        os.close(lock)
