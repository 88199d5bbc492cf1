"""Fetch the manifests that commands name: signed ones of known versions, drafts of imported models.

A draft is not signed, so nothing in it is trusted: digests are checked, and a child loads its artifact and
runs the draft's self-test rows before it may become a version.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ...models.evaluation.result import ExperimentResult
from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import Verifier
from ...schemas.errors import ArtifactError, Error
from ...schemas.serving import Manifest
from .child.job import ARTIFACT, JOB, RESULT, TrainingJob
from .child.process import ChildPool
from .core import ManifestRequest

TEST_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class ManifestCheck:
    """Fetches and checks manifests. Blocks while the store and a child work, at most about half a minute."""

    store: ArtifactStore
    verifier: Verifier
    children: ChildPool
    folder: Path

    def fetch(self, request: ManifestRequest) -> tuple[Manifest | None, str]:
        """The manifest, or why it cannot be used."""
        try:
            manifest = self.store.get_manifest(request.model, request.sha256)
            if request.draft:
                self._test(manifest)
            else:
                self.verifier.verify(manifest)
        except (Error, OSError) as error:
            return None, str(error)
        return manifest, ""

    def _test(self, manifest: Manifest) -> None:
        data = self.store.get_artifact(manifest.model, manifest.artifact_sha256)
        if len(data) != manifest.artifact_bytes:
            raise ArtifactError(
                f"the artifact has {len(data)} bytes, and the manifest says {manifest.artifact_bytes}"
            )
        folder = self.folder / f"test-{manifest.artifact_sha256}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / ARTIFACT).write_bytes(data)
            (folder / JOB).write_bytes(TrainingJob(kind="self-test", manifest=manifest).encode())
            with self.children.one() as child:
                for _ in child.work(folder, TEST_LIMIT_S):
                    pass
            result = ExperimentResult.decode((folder / RESULT).read_bytes())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not result.passed:
            raise ArtifactError(result.why)
