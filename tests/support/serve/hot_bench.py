"""Versions of a model in a store, and updates to them, for what loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from driftloop.models.formats.features import infer_features
from driftloop.models.formats.fitted import Fitted
from driftloop.models.formats.learners import make_learner
from driftloop.models.registry.artifacts import ArtifactStore
from driftloop.models.registry.signing import load_or_create_keypair
from driftloop.schemas.serving import Manifest, ModelUpdate
from driftloop.schemas.spec.model import HistGradientBoosting, ModelSpec, RiverLinear
from driftloop.streams.serve.hot.swap import HotSwap, SwapResult

from tests.support.models.worlds import manifest_of, update_to, world

ROWS = world(600, seed=4)
INPUTS = [row.features for row in ROWS]
ROW = INPUTS[0]


def _fit(seed: int, *, flipped: bool = False) -> Fitted:
    rows = world(600, seed=seed, flipped=flipped)
    inputs = [row.features for row in rows]
    spec = HistGradientBoosting(max_iter=5) if seed % 2 else RiverLinear()
    return make_learner(spec).fit(
        inputs,
        [row.label for row in rows],
        features=infer_features(ModelSpec(), inputs),
        classes=None,
        task="classification",
        seed=seed,
    )


FITTED = {version: _fit(version, flipped=version % 3 == 0) for version in range(1, 6)}


class Bench:
    """A trainer's keys and store, with versions 1–5 in it, and a server's swap."""

    def __init__(self, folder: Path) -> None:
        self.signer = load_or_create_keypair(folder / "keys")
        self.verifier = self.signer.verifier()
        self.store = ArtifactStore(str(folder / "store"))
        self.folder = folder / "store"
        self.digests: dict[int, str] = {}
        self.manifests: dict[int, Manifest] = {}
        for version, fitted in FITTED.items():
            self.publish(version, fitted)
        self.swap = HotSwap("m")

    def publish(self, version: int, fitted: Fitted, **changes: Any) -> str:
        self.store.put_artifact("m", fitted.data)
        manifest = manifest_of(fitted, version=version).model_copy(update=changes)
        self.manifests[version] = self.signer.sign(manifest)
        self.digests[version] = self.store.put_manifest(self.manifests[version])
        return self.digests[version]

    def update(self, generation: int, version: int | None, **plan: Any) -> ModelUpdate:
        champion = None if version is None else (version, self.digests[version])
        return update_to(self.signer, generation, champion, **plan)

    def apply(self, update: ModelUpdate) -> SwapResult:
        return self.swap.apply(update, store=self.store, verifier=self.verifier)

    def artifact(self, version: int) -> Path:
        return self.folder / "m" / "artifacts" / self.manifests[version].artifact_sha256


def ref(bench: Bench, version: int, **more: Any) -> dict[str, Any]:
    return {"version": version, "manifest_sha256": bench.digests[version], **more}


def answers(bench: Bench, version: int) -> list[Any]:
    """What that version should answer, by a swap of its own."""
    other = HotSwap("m")
    applied = other.apply(bench.update(1, version), store=bench.store, verifier=bench.verifier)
    assert applied.status == "live"
    return [served.answer for served in other.predict(INPUTS[:50])]
