"""A trainer's keys and its store, with signed versions of one model in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftloop.models.formats.features import Row
from driftloop.models.formats.fitted import Fitted
from driftloop.models.registry.artifacts import ArtifactStore
from driftloop.models.registry.signing import load_or_create_keypair
from driftloop.schemas.serving import Manifest

from tests.support.models.worlds import manifest_of


class VersionStore:
    """``manifests``: of every version, as it was put last."""

    def __init__(self, folder: Path, model: str = "m") -> None:
        self.model = model
        self.keys_dir, self.store_dir = folder / "keys", folder / "artifacts"
        self.signer = load_or_create_keypair(self.keys_dir)
        self.store = ArtifactStore(str(self.store_dir))
        self.manifests: dict[int, Manifest] = {}

    def put(self, version: int, fitted: Fitted, rows: Sequence[Row], **changes: Any) -> str:
        """Store a version whose self-test asks ``rows``; return its manifest's digest."""
        self.store.put_artifact(self.model, fitted.data)
        manifest = manifest_of(fitted, rows, version, **({"model": self.model} | changes))
        self.manifests[version] = self.signer.sign(manifest)
        return self.store.put_manifest(self.manifests[version])

    def artifact(self, version: int) -> Path:
        """The file with the version's bytes."""
        return self.store_dir / self.model / "artifacts" / self.manifests[version].artifact_sha256
