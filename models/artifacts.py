"""Artifacts and manifests by digest, on any fsspec file system (a folder, S3, GCS, …).

Layout: ``<root>/<model>/artifacts/<sha256>`` and ``<root>/<model>/manifests/<sha256>.json``. Paths are made
of a checked model name and a checked digest only, so nothing from the wire can lead out of the root.
Writing is idempotent; a local file appears whole or not at all (temporary name, fsync, rename). On failure:
nothing half-written is ever visible under a digest, and what is not referenced yet is harmless.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any, cast

import fsspec.core  # pyright: ignore[reportMissingTypeStubs]
from fsspec.implementations.local import LocalFileSystem

from ..schemas.base import MODEL_NAME_PATTERN
from ..schemas.errors import ArtifactError, DecodeError, SettingsError
from ..schemas.serving import Manifest
from .loaders import MAX_ARTIFACT_BYTES

MAX_MANIFEST_BYTES = 4 * 1024 * 1024  # a profile of a thousand features with a thousand categories fits

_MODEL = re.compile(MODEL_NAME_PATTERN)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class MissingArtifact(ArtifactError):
    """Nothing of that digest is in the store (yet, if the store is slow to show what was written)."""


class ArtifactStore:
    """A content-addressed store below one root. Thread safe where its file system is."""

    def __init__(self, url: str) -> None:
        """``url``: a folder or any fsspec URL. Raises SettingsError when its file system is unknown."""
        try:
            # A remembered listing would hide what another process has stored since.
            fs, root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url, use_listings_cache=False))
        except (ImportError, ValueError) as error:
            raise SettingsError(f"artifact store {url!r} cannot be opened: {error}") from error
        self._fs = fs
        self._root = root.rstrip("/")
        self._local = isinstance(fs, LocalFileSystem)

    def put_artifact(self, model: str, data: bytes) -> str:
        """Stores the bytes; gives their sha256. Raises OSError when the file system does."""
        return self._put(model, "artifacts", "", data)

    def get_artifact(self, model: str, sha256: str, max_bytes: int = MAX_ARTIFACT_BYTES) -> bytes:
        """The bytes of that digest. Raises MissingArtifact; ArtifactError when too many or altered."""
        return self._get(model, "artifacts", "", sha256, max_bytes)

    def put_manifest(self, manifest: Manifest) -> str:
        """Stores the manifest; gives the sha256 of its bytes, which names it in model updates."""
        return self._put(manifest.model, "manifests", ".json", manifest.encode())

    def get_manifest(self, model: str, sha256: str) -> Manifest:
        """The manifest of that digest; its signature is for the caller to verify.

        Raises ArtifactError when it is missing, altered, no manifest or another model's.
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
        """Every stored manifest, by version and refresh. Raises ArtifactError when one is altered."""
        folder = f"{self._root}/{_checked_model(model)}/manifests"
        try:
            names = cast("list[str]", self._fs.ls(folder, detail=False))
        except FileNotFoundError:
            return []
        digests = [digest for name in names if _SHA256.fullmatch(digest := _digest_in(name))]
        manifests = [self.get_manifest(model, digest) for digest in sorted(digests)]
        return sorted(
            manifests, key=lambda manifest: (manifest.version, manifest.refresh, manifest.created_ms)
        )

    def _path(self, model: str, kind: str, sha256: str, suffix: str) -> str:
        if _SHA256.fullmatch(sha256) is None:
            raise ArtifactError(f"{sha256[:80]!r} is not a sha256 in hex")
        return f"{self._root}/{_checked_model(model)}/{kind}/{sha256}{suffix}"

    def _put(self, model: str, kind: str, suffix: str, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(model, kind, sha256, suffix)
        if self._local:
            _write_atomically(Path(path), data)
        else:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)  # object stores show an object when it is complete
        return sha256

    def _get(self, model: str, kind: str, suffix: str, sha256: str, max_bytes: int) -> bytes:
        path = self._path(model, kind, sha256, suffix)
        what = f"{kind[:-1]} {sha256[:12]}… of {model}"
        try:
            with self._fs.open(path, "rb") as file:
                data = cast("bytes", file.read(max_bytes + 1))
        except FileNotFoundError as error:
            raise MissingArtifact(f"{what} is not in the store") from error
        if len(data) > max_bytes:
            raise ArtifactError(f"{what} has more than the {max_bytes} bytes allowed")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactError(f"{what} was altered: its bytes do not have that digest")
        return data


def _checked_model(model: str) -> str:
    # fullmatch, because `$` alone would let a name end in a newline
    if _MODEL.fullmatch(model) is None:
        raise ArtifactError(f"{model[:80]!r} is not a model name")
    return model


def _digest_in(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp's 0600 would lock out servers that run as another user
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
