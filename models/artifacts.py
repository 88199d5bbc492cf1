"""Artifacts and manifests by digest, on any fsspec file system."""

from __future__ import annotations

from ..schemas.serving import Manifest
from .loaders import MAX_ARTIFACT_BYTES


class ArtifactStore:
    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def put_artifact(self, model: str, data: bytes) -> str:
        raise NotImplementedError

    def get_artifact(self, model: str, sha256: str, max_bytes: int = MAX_ARTIFACT_BYTES) -> bytes:
        raise NotImplementedError

    def put_manifest(self, manifest: Manifest) -> str:
        raise NotImplementedError

    def get_manifest(self, model: str, sha256: str) -> Manifest:
        raise NotImplementedError

    def list_manifests(self, model: str) -> list[Manifest]:
        raise NotImplementedError
