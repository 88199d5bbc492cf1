"""Read and write files of a local artifact store, never outside its root: no link is followed below it.

Otherwise anyone who may write into the store's folder could make a server read (or the trainer write)
anywhere, or hang on a pipe. Each step of a path is opened in the folder before it, so nothing can be
exchanged in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ...schemas.errors import ArtifactError
from .whole_file import whole_file

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not wait for its writer


@contextmanager
def open_confined(root: Path, parts: tuple[str, ...]) -> Generator[IO[bytes]]:
    """Open ``root/parts…`` for reading. Raises ArtifactError for what is not a plain file below the root.

    Raises FileNotFoundError if there is none, OSError if it cannot be read.
    """
    with _folder(root, parts[:-1]) as folder:
        try:
            handle = os.open(parts[-1], _FILE, dir_fd=folder)
        except OSError as error:
            raise _refusal(error, root, parts) from error
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ArtifactError(f"{root.joinpath(*parts)} is no plain file: it is not read")
            yield file


def write_confined(root: Path, parts: tuple[str, ...], data: bytes) -> None:
    """Write the file, which appears whole or not at all.

    Raises ArtifactError where a link leads elsewhere, OSError when it cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (
        _folder(root, parts[:-1], make=True) as folder,
        whole_file(Path(parts[-1]), dir_fd=folder) as file,
    ):
        file.write(data)
        os.fchmod(file.fileno(), 0o644)  # servers may run as another user


@contextmanager
def _folder(root: Path, parts: tuple[str, ...], *, make: bool = False) -> Generator[int]:
    """The folder ``root/parts…`` as a descriptor. The root itself may be reached through links."""
    handle = os.open(root, _FOLDER)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            try:
                inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            except OSError as error:
                raise _refusal(error, root, parts) from error
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _refusal(error: OSError, root: Path, parts: tuple[str, ...]) -> Exception:
    # ELOOP: a link where O_NOFOLLOW stands; ENOTDIR: the same, where a folder was asked for; ENXIO: a socket
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        where = root.joinpath(*parts)
        return ArtifactError(f"{where} leads out of the store: links in the store's folder are not followed")
    return error
