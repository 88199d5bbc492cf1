"""Ed25519 signatures of manifests and model updates, over canonical bytes.

Canonical bytes: the event as JSON with sorted keys and only the fields that the record holds, without
``signature``. A field that a newer writer added is kept and signed; a default that a newer reader added is
not, so versions of driftloop verify each other's events.

``keys_dir/signing.key`` (mode 0600) stays where the trainer runs; ``keys_dir/trusted/<key_id>.pub`` is all
that a server needs. Several keys may be trusted at once; ``trusted/<key_id>.revoked`` ends that for one,
for everything it ever signed. ``keys.py`` makes, changes and revokes them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ...schemas.errors import ArtifactError, SettingsError
from ...schemas.serving import Manifest, ModelUpdate
from .whole_file import whole_file

Signed = TypeVar("Signed", Manifest, ModelUpdate)

SIGNING_KEY = "signing.key"
TRUSTED = "trusted"
REVOKED_SUFFIX = ".revoked"


class RevokedKey(ArtifactError):
    """It is signed with a key that was trusted once and is revoked."""


def canonical_bytes(event: Manifest | ModelUpdate) -> bytes:
    """The bytes that are signed: the same before encoding, after decoding, and in other versions."""
    fields = event.model_dump(exclude={"signature"}, exclude_none=True, exclude_unset=True)
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def key_id_of(public: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the sha256 of the raw public key."""
    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


class Verifier:
    """Verifies signatures with the trusted public keys. Servers have one; it has no private key."""

    def __init__(
        self, trusted: Mapping[str, Ed25519PublicKey], revoked: Collection[str] = frozenset()
    ) -> None:
        self._trusted = dict(trusted)
        self._revoked = frozenset(revoked)

    @property
    def key_ids(self) -> frozenset[str]:
        """The keys whose signatures are trusted."""
        return frozenset(self._trusted) - self._revoked

    def verify(self, event: Manifest | ModelUpdate) -> None:
        """Raise ArtifactError if the event is unsigned, altered, or signed by nobody trusted.

        Raises RevokedKey if its key was revoked, whether or not the signature is right.
        """
        if event.signature and event.key_id in self._revoked:
            what = type(event).__name__
            raise RevokedKey(f"the {what} is signed with key {event.key_id[:16]!r}, which was revoked")
        self.verify_history(event)

    def verify_history(self, event: Manifest | ModelUpdate) -> None:
        """As ``verify``, but accept what was signed before its key was revoked, as a record of the past.

        For the registrar, which must count on from there; nothing is ever served because of this.
        """
        what = type(event).__name__
        if not event.signature:
            raise ArtifactError(f"the {what} carries no signature")
        public = self._trusted.get(event.key_id)
        if public is None:
            raise ArtifactError(
                f"the {what} is signed with key {event.key_id[:16]!r}, which is not trusted here: "
                f"put its public key into the keys folder's {TRUSTED}/ if it should be"
            )
        try:
            signature = base64.b64decode(event.signature, validate=True)
            if base64.b64encode(signature).decode() != event.signature:
                raise InvalidSignature  # other spellings of the same bytes: one event, one signature
            public.verify(signature, canonical_bytes(event))
        except (InvalidSignature, ValueError) as error:
            raise ArtifactError(f"the {what}'s signature is wrong: it was altered or mis-signed") from error


class Signer:
    """Signs for the registrar."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key_id = key_id_of(private.public_key())

    def sign(self, event: Signed) -> Signed:
        """The event with ``key_id`` and ``signature``, exactly as a reader will decode it."""
        # Through its own bytes: every field is then set, and numbers are what a reader will see.
        unsigned = event.model_copy(update={"key_id": self.key_id, "signature": ""})
        canonical = type(event).decode(unsigned.encode())
        signature = base64.b64encode(self._private.sign(canonical_bytes(canonical))).decode()
        return canonical.model_copy(update={"signature": signature})

    def verifier(self) -> Verifier:
        """A verifier that trusts this signer alone."""
        return Verifier({self.key_id: self._private.public_key()})


def load_or_create_keypair(keys_dir: Path) -> Signer:
    """The folder's signing key, made on first use; its public key is added to the trusted ones.

    Raises SettingsError if the key file is not an Ed25519 key, others may read it, or it was revoked.
    """
    path = keys_dir / SIGNING_KEY
    keys_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        create_private(path, Ed25519PrivateKey.generate())
    private = read_private(path)
    public = private.public_key()
    if key_id_of(public) in revoked_ids(keys_dir):
        raise SettingsError(
            f"{path} is key {key_id_of(public)}, which was revoked: sign with another one (`driftloop keys "
            "new`, then `driftloop keys use KEY_ID`)"
        )
    trust(keys_dir, public)
    return Signer(private)


def trust(keys_dir: Path, public: Ed25519PublicKey) -> None:
    """Add a public key to the trusted ones."""
    trusted = keys_dir / TRUSTED / f"{key_id_of(public)}.pub"
    trusted.parent.mkdir(parents=True, exist_ok=True)
    if not trusted.exists():
        create(trusted, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)


def revoked_ids(keys_dir: Path) -> frozenset[str]:
    """The ids of revoked keys."""
    return frozenset(path.stem for path in (keys_dir / TRUSTED).glob(f"*{REVOKED_SUFFIX}"))


def create_private(path: Path, private: Ed25519PrivateKey) -> None:
    """Write a private key that only its owner may read."""
    create(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


def load_verifier(keys_dir: Path) -> Verifier:
    """Every key in ``keys_dir/trusted`` that is not revoked there.

    Raises SettingsError for a file that is not what its name says.
    """
    trusted: dict[str, Ed25519PublicKey] = {}
    for path in sorted((keys_dir / TRUSTED).glob("*.pub")):
        try:
            public = load_pem_public_key(path.read_bytes())
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{path} is not a PEM public key: {error}") from error
        if not isinstance(public, Ed25519PublicKey):
            raise SettingsError(f"{path} is not an Ed25519 public key")
        if key_id_of(public) != path.stem:
            raise SettingsError(f"{path} holds another key: name it {key_id_of(public)}.pub")
        trusted[path.stem] = public
    return Verifier(trusted, revoked_ids(keys_dir))


def create(path: Path, data: bytes, *, mode: int) -> None:
    """Write a new file; one that another process made first stays, and its key is the one to use."""
    with whole_file(path, replace=False) as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)


def read_private(path: Path) -> Ed25519PrivateKey:
    """Raise SettingsError if it is not an Ed25519 key, or others may read it."""
    # Group read passes: that is how Kubernetes mounts a secret for a process that is not root.
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o037:
        raise SettingsError(f"{path} has mode {mode:04o}, so others can read or replace it: chmod 600 {path}")
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{path} is not a PEM private key without a password: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(f"{path} is not an Ed25519 private key")
    return private
