"""The key that hashes private features: from DRIFTLOOP_HASH_KEY, else from ``hash.key`` in the keys folder.

Every server of a deployment needs the same key, or their hashes differ and a model cannot learn from them.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ..models.registry.whole_file import whole_file
from ..schemas.errors import SettingsError
from ..streams.serve.privacy import Hasher
from .settings import Settings

HASH_KEY = "hash.key"


def find_hasher(settings: Settings, *, create: bool = False) -> Hasher | None:
    """None if there is no key. Raises SettingsError for a key that is too short or cannot be read.

    ``create``: make one in the state folder's own keys folder, for a host that runs all roles. A program
    that embeds driftloop must not create one, nor one whose keys folder was set: their keys would differ.
    """
    if settings.hash_key is not None:
        return Hasher(settings.hash_key.get_secret_value().encode())
    path = settings.keys_path() / HASH_KEY
    try:
        return Hasher(path.read_bytes().strip())
    except FileNotFoundError:
        if not create or settings.keys_dir is not None:
            return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    return Hasher(_made(path))


def _made(path: Path) -> bytes:
    """A new key, or the one that another process created meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, replace=False) as file:
            file.write(f"{secrets.token_hex(32)}\n".encode())
        return path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"no key to hash private features: {path} cannot be made ({error}); set DRIFTLOOP_HASH_KEY"
        ) from error
