"""Write a file whole or not at all: beside its place, synced to disk, then moved there in one step.

On failure: the file at ``path`` is what it was before. A process that is killed leaves at most a file whose
name begins with ``.writing-``, which nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@contextmanager
def whole_file(
    path: Path, *, mode: int = 0o600, replace: bool = True, dir_fd: int | None = None
) -> Generator[IO[bytes]]:
    """The file to write to; it appears at ``path`` when the block ends, and does not when the block raises.

    ``mode`` is narrowed by the umask, as that of ``open``. Without ``replace`` a file that is there already,
    or that another process made meanwhile, stays. ``dir_fd``: the open folder that ``path`` is relative to.
    Raises OSError when it cannot be written.
    """
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}")
    handle = os.open(temporary, _CREATE, mode, dir_fd=dir_fd)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        if replace:
            os.replace(temporary, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=dir_fd)
