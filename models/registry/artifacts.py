"""Store artifacts and manifests by digest, on any fsspec file system (a folder, S3, GCS, …).

Layout: ``<root>/<model>/artifacts/<sha256>`` and ``<root>/<model>/manifests/<sha256>.json``. Paths are made
of a checked model name and a checked digest only, so nothing from the wire can lead out of the root; in a
local store no link below the root is followed either. Reading stops at the size limit and returns bytes only
after checking their digest. Writing is idempotent; a local file appears whole or not at all. On failure:
nothing half-written is ever visible under a digest, and what is not referenced yet is harmless. Secrets in
the store's URL are kept out of every message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import fsspec.core  # pyright: ignore[reportMissingTypeStubs]
from fsspec.implementations.local import LocalFileSystem

from ...schemas.base import MODEL_NAME_PATTERN
from ...schemas.errors import ArtifactError, DecodeError, SettingsError
from ...schemas.serving import Manifest
from ..formats.loaders import MAX_ARTIFACT_BYTES
from .confined_files import open_confined, write_confined

MAX_MANIFEST_BYTES = 4 * 1024 * 1024  # a profile of a thousand features with a thousand categories fits

_MODEL = re.compile(MODEL_NAME_PATTERN)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1024 * 1024
_SECRET_CHARS = 4  # replacing a shorter password would hide half of a message


class MissingArtifact(ArtifactError):
    """Nothing with that digest is in the store (yet, if the store shows writes late)."""


class StoreRoot(NamedTuple):
    """Where a store is. ``is_local``: in a folder of this machine."""

    fs: Any
    path: str
    is_local: bool


def open_store(url: str) -> StoreRoot:
    """``url``: a folder or any fsspec URL. Raises SettingsError when its file system is unknown."""
    try:
        # A remembered listing would hide what another process has stored since.
        fs, root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url, use_listings_cache=False))
    except (ImportError, ValueError) as error:
        message = f"artifact store {url!r} cannot be opened: {error}"
        raise SettingsError(without_secrets(secrets_of(url), message)) from None
    return StoreRoot(fs, root.rstrip("/"), isinstance(fs, LocalFileSystem))


class ArtifactStore:
    """A content-addressed store below one root. Thread safe where its file system is."""

    def __init__(self, url: str) -> None:
        """``url``: a folder or any fsspec URL. Raises SettingsError when its file system is unknown."""
        self._fs, self._root, self._local = open_store(url)
        self._secrets = secrets_of(url)

    def put_artifact(self, model: str, data: bytes) -> str:
        """Store the bytes and return their sha256. Raises OSError if the file system does."""
        return self._put(model, "artifacts", "", data)

    def get_artifact(self, model: str, sha256: str, max_bytes: int = MAX_ARTIFACT_BYTES) -> bytes:
        """The bytes with that digest. Raises MissingArtifact; ArtifactError if too many or altered."""
        return self._get(model, "artifacts", "", sha256, max_bytes)

    def put_manifest(self, manifest: Manifest) -> str:
        """Store the manifest and return the sha256 of its bytes, which names it in model updates."""
        return self._put(manifest.model, "manifests", ".json", manifest.encode())

    def get_manifest(self, model: str, sha256: str) -> Manifest:
        """The manifest with that digest; the caller must verify its signature.

        Raises ArtifactError if it is missing, altered, no manifest or another model's.
        """
        data = self._get(model, "manifests", ".json", sha256, MAX_MANIFEST_BYTES)
        try:
            manifest = Manifest.decode(data)
        except DecodeError as error:
            raise ArtifactError(f"manifest {sha256[:12]}… of {model}: {error.reason}") from error
        if manifest.model != model:
            raise ArtifactError(f"manifest {sha256[:12]}… is of model {manifest.model}, not {model}")
        return manifest

    def list_manifests(self, model: str) -> list[Manifest]:
        """Every stored manifest, by version and refresh. Raises ArtifactError if one is altered."""
        folder = f"{self._root}/{_checked_model(model)}/manifests"
        try:
            with self._secrets_kept():
                names = cast("list[str]", self._fs.ls(folder, detail=False))
        except FileNotFoundError:
            return []
        stems = sorted(name.rpartition("/")[2].removesuffix(".json") for name in names)
        manifests = [self.get_manifest(model, stem) for stem in stems if _SHA256.fullmatch(stem)]
        return sorted(manifests, key=lambda one: (one.version, one.refresh, one.created_ms))

    def _parts(self, model: str, kind: str, sha256: str, suffix: str) -> tuple[str, str, str]:
        if _SHA256.fullmatch(sha256) is None:
            raise ArtifactError(f"{sha256[:80]!r} is not a sha256 in hex")
        return (_checked_model(model), kind, f"{sha256}{suffix}")

    def _put(self, model: str, kind: str, suffix: str, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        parts = self._parts(model, kind, sha256, suffix)
        if self._local:
            write_confined(Path(self._root), parts, data)
            return sha256
        with self._secrets_kept():
            self._fs.makedirs("/".join((self._root, *parts[:-1])), exist_ok=True)
            self._fs.pipe_file("/".join((self._root, *parts)), data)  # an object is shown when complete
        return sha256

    def _get(self, model: str, kind: str, suffix: str, sha256: str, max_bytes: int) -> bytes:
        parts = self._parts(model, kind, sha256, suffix)
        what = f"{kind[:-1]} {sha256[:12]}… of {model}"
        try:
            with self._secrets_kept(), self._open(parts) as file:
                data = _read_at_most(file, max_bytes)
        except FileNotFoundError as error:
            raise MissingArtifact(f"{what} is not in the store") from error
        if data is None:
            raise ArtifactError(f"{what} has more than the {max_bytes} bytes allowed")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactError(f"{what} was altered: its bytes do not have that digest")
        return data

    @contextmanager
    def _open(self, parts: tuple[str, ...]) -> Generator[IO[bytes]]:
        if self._local:
            with open_confined(Path(self._root), parts) as file:
                yield file
        else:
            with self._fs.open("/".join((self._root, *parts)), "rb") as file:
                yield file

    @contextmanager
    def _secrets_kept(self) -> Generator[None]:
        """Turn every file system's errors into OSError without secrets.

        Their messages hold the whole URL and would reach acknowledgements.
        """
        try:
            yield
        except (ArtifactError, FileNotFoundError):
            raise
        except Exception as error:
            message = repr(error)
            secret = any(secret in message for secret in self._secrets)
            if isinstance(error, OSError) and not secret:
                raise
            raise OSError(without_secrets(self._secrets, message)) from (None if secret else error)


def _read_at_most(file: IO[bytes], max_bytes: int) -> bytes | None:
    """Read the whole file; None as soon as it has more than ``max_bytes``."""
    data = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, max_bytes + 1 - len(data))):
        data += chunk
        if len(data) > max_bytes:
            return None
    return bytes(data)


def secrets_of(url: str) -> tuple[str, ...]:
    """A store's password and its URL's query values, as written and unquoted; longest first."""
    split = urlsplit(url.rpartition("::")[2])
    _, _, host = split.netloc.rpartition("@")
    password = split.netloc.removesuffix(f"@{host}").partition(":")[2] if "@" in split.netloc else ""
    written = {password, *(value for _, value in parse_qsl(split.query))}
    known = written | {unquote(secret) for secret in written}
    return tuple(sorted((one for one in known if len(one) >= _SECRET_CHARS), key=len, reverse=True))


def without_secrets(secrets: tuple[str, ...], text: str) -> str:
    """``text`` with each secret replaced by ***."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _checked_model(model: str) -> str:
    # fullmatch, because `$` alone would let a name end in a newline
    if _MODEL.fullmatch(model) is None:
        raise ArtifactError(f"{model[:80]!r} is not a model name")
    return model
