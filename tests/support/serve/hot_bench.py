"""Versions of a model in a store, and updates to them, for what loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from driftloop.models.formats.fitted import Fitted
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.spec.model import HistGradientBoosting, RiverLinear
from driftloop.streams.serve.hot.swap import HotSwap, SwapResult

from tests.support.models.versions import VersionStore
from tests.support.models.worlds import fit, update_to, world

INPUTS = [row.features for row in world(600, seed=4)]
ROW = INPUTS[0]
SELF_TEST = [row.features for row in world(30, seed=99)]


def _fit(seed: int) -> Fitted:
    learner = HistGradientBoosting(max_iter=5) if seed % 2 else RiverLinear()
    return fit(learner, world(600, seed=seed, flipped=seed % 3 == 0), seed)


FITTED = {version: _fit(version) for version in range(1, 6)}


class HotBench(VersionStore):
    """A trainer's keys and store, with versions 1–5 in it, and a server's swap."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.verifier = self.signer.verifier()
        self.folder = self.store_dir
        self.digests: dict[int, str] = {}
        for version, fitted in FITTED.items():
            self.publish(version, fitted)
        self.swap = HotSwap("m")

    def publish(self, version: int, fitted: Fitted, **changes: Any) -> None:
        self.digests[version] = self.put(version, fitted, SELF_TEST, **changes)

    def update(self, generation: int, version: int | None, **plan: Any) -> ModelUpdate:
        champion = None if version is None else (version, self.digests[version])
        return update_to(self.signer, generation, champion, **plan)

    def apply(self, update: ModelUpdate) -> SwapResult:
        return self.swap.apply(update, store=self.store, verifier=self.verifier)


def ref(bench: HotBench, version: int, **more: Any) -> dict[str, Any]:
    return {"version": version, "manifest_sha256": bench.digests[version], **more}


def answers(bench: HotBench, version: int) -> list[Any]:
    """What that version should answer, by a swap of its own."""
    other = HotSwap("m")
    applied = other.apply(bench.update(1, version), store=bench.store, verifier=bench.verifier)
    assert applied.status == "live"
    return [served.answer for served in other.predict(INPUTS[:50])]
