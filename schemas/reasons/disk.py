"""Why local files cannot be written or read, as one line that a person can act on."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")  # RocksDB has texts only
_CURE = "free some space there, or set DRIFTLOOP_STATE_DIR to a folder on another disk"


def is_full(error: BaseException) -> bool:
    """Whether the error is that of a full disk."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or (number is None and any(text in str(error) for text in _FULL_TEXTS))


def disk_reason(error: BaseException) -> str:
    """Return what follows the name of a file or folder: the error and, of a full disk, what to do."""
    return f"its disk is full: {_CURE} ({error})" if is_full(error) else str(error)
