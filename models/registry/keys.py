"""Make, change and revoke signing keys: files in the keys folder, and nothing else.

``signing.key`` is the key that the trainer signs with, ``<key_id>.key`` are keys that it could (0600, they
never leave the trainer's host); ``trusted/<key_id>.pub`` and ``trusted/<key_id>.revoked`` go to every
server. Each step is one file that appears whole, so a process that dies between two of them leaves a folder
that works.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ...schemas.errors import Error, SettingsError
from .signing import (
    REVOKED_SUFFIX,
    SIGNING_KEY,
    TRUSTED,
    create,
    create_private,
    key_id_of,
    load_verifier,
    read_private,
    revoked_ids,
    trust,
)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """``private``: it is here and could sign. ``signing``: it is the one that does."""

    key_id: str
    signing: bool
    private: bool
    trusted: bool
    revoked: bool
    why: str = ""


def new_key(keys_dir: Path) -> str:
    """Make a key that is trusted here and return its id. The first one becomes the signing key."""
    private = Ed25519PrivateKey.generate()
    key_id = key_id_of(private.public_key())
    keys_dir.mkdir(parents=True, exist_ok=True)
    trust(keys_dir, private.public_key())
    create_private(_private_path(keys_dir, key_id), private)
    if not (keys_dir / SIGNING_KEY).exists():
        use_key(keys_dir, key_id)
    return key_id


def use_key(keys_dir: Path, key_id: str) -> None:
    """Make it the signing key from the trainer's next start on; the one before stays, under its id.

    Raises Error for a key that is not here or was revoked, SettingsError for one that is not a key.
    """
    if key_id in revoked_ids(keys_dir):
        raise Error(f"key {key_id} was revoked: nobody would trust what it signs")
    path = _private_path(keys_dir, key_id)
    if not path.exists():
        raise Error(f"there is no private key {path}: `driftloop keys list` shows those that are here")
    if key_id_of(read_private(path).public_key()) != key_id:
        raise SettingsError(f"{path} holds another key than its name says")
    signing = keys_dir / SIGNING_KEY
    if signing.exists():
        before = key_id_of(read_private(signing).public_key())
        with contextlib.suppress(FileExistsError):
            _private_path(keys_dir, before).hardlink_to(signing)
    temporary = keys_dir / f".{SIGNING_KEY}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.hardlink_to(path)
    temporary.replace(signing)
    temporary.unlink(missing_ok=True)  # replacing a name of the same file does nothing, by POSIX


def revoke_key(keys_dir: Path, key_id: str, why: str = "") -> None:
    """Stop trusting everything it signed. Raises Error for a key that is unknown or signs now."""
    known = {info.key_id: info for info in list_keys(keys_dir)}
    found = known.get(key_id)
    if found is None:
        raise Error(f"there is no key {key_id} in {keys_dir}; there are: {', '.join(known) or 'none'}")
    if found.signing:
        raise Error(
            f"key {key_id} is the one that signs: first make another (`driftloop keys new`) and sign with it "
            "(`driftloop keys use KEY_ID`), or the trainer cannot go on"
        )
    create(keys_dir / TRUSTED / f"{key_id}{REVOKED_SUFFIX}", f"{why}\n".encode(), mode=0o644)


def list_keys(keys_dir: Path) -> tuple[KeyInfo, ...]:
    """Every key that the folder knows of. Raises SettingsError for a file that is not what its name says."""
    signing = keys_dir / SIGNING_KEY
    active = key_id_of(read_private(signing).public_key()) if signing.exists() else None
    private = {path.stem for path in keys_dir.glob("*.key") if len(path.stem) == 16}
    revoked = revoked_ids(keys_dir)
    trusted = load_verifier(keys_dir).key_ids
    everyone = {*private, *revoked, *trusted, *([] if active is None else [active])}
    return tuple(
        KeyInfo(
            key_id,
            signing=key_id == active,
            private=key_id in private or key_id == active,
            trusted=key_id in trusted,
            revoked=key_id in revoked,
            why=_why(keys_dir, key_id) if key_id in revoked else "",
        )
        for key_id in sorted(everyone)
    )


def _private_path(keys_dir: Path, key_id: str) -> Path:
    if len(key_id) != 16 or not set(key_id) <= set("0123456789abcdef"):
        raise Error(f"{key_id[:40]!r} is no key id: they are 16 hex digits, as `driftloop keys list` shows")
    return keys_dir / f"{key_id}.key"


def _why(keys_dir: Path, key_id: str) -> str:
    return (keys_dir / TRUSTED / f"{key_id}{REVOKED_SUFFIX}").read_text("utf-8", "replace").strip()
