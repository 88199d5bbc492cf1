"""Rows for models to learn from: small, made on the spot, with a change wherever a test wants it."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from driftloop.models.formats.features import Row, infer_features
from driftloop.models.formats.fitted import Fitted
from driftloop.models.formats.learners import make_learner
from driftloop.models.formats.loaders import load
from driftloop.models.registry.self_test import build_self_test
from driftloop.models.registry.signing import Signer
from driftloop.models.rows import LabelledRow
from driftloop.schemas.serving import Manifest, ModelUpdate, Plan, Reference, VersionRef
from driftloop.schemas.spec.model import HistGradientBoosting, ModelSpec, RiverLinear

from tests.support.paths import ELEC2


def world(
    count: int, *, seed: int, flipped: bool = False, start: int = 0, noise: float = 0.5
) -> list[LabelledRow]:
    """Two classes that depend on x, colour and z (a fifth null); ``flipped`` reverses the effect of x."""
    rng = np.random.default_rng(seed)
    rows: list[LabelledRow] = []
    for i in range(count):
        x, z = rng.normal(), rng.normal()
        colour = str(rng.choice(["red", "green", "blue"]))
        score = (-x if flipped else x) + 0.7 * (colour == "red") + 0.3 * z + noise * rng.normal()
        rows.append(
            LabelledRow(
                prediction_id=f"p{start + i:06d}",
                ts=(start + i) * 1000,
                seq=start + i,
                partition=i % 3,
                features={
                    "x": float(x),
                    "z": None if rng.random() < 0.2 else float(z),
                    "colour": colour,
                    "big": bool(x > 1),
                },
                label="yes" if score > 0.2 else "no",
                segments={"colour": colour},
                prediction=None,
                version=1,
            )
        )
    return rows


def elec2(limit: int = 50_000) -> list[LabelledRow]:
    """Half-hours in order; the label is whether the price rose."""
    rows: list[LabelledRow] = []
    with gzip.open(ELEC2, "rt") as file:
        for i, line in enumerate(csv.DictReader(file)):
            if i == limit:
                break
            features = {name: float(value) for name, value in line.items() if name not in ("class", "date")}
            rows.append(
                LabelledRow(
                    f"e{i:06d}", i * 1_800_000, i, 0, features, line["class"], {"day": line["day"]}, None, 1
                )
            )
    return rows


def fit(learner: HistGradientBoosting | RiverLinear, rows: list[LabelledRow], seed: int = 1) -> Fitted:
    """A classifier of rows of a world."""
    inputs = [row.features for row in rows]
    return make_learner(learner).fit(
        inputs, [row.label for row in rows], features=infer_features(ModelSpec(), inputs), classes=None,
        task="classification", seed=seed,
    )  # fmt: skip


def manifest(version: int = 1, **changes: Any) -> Manifest:
    """A manifest whose artifact nobody has, for tests that never load it."""
    return Manifest(
        model="m", version=version, created_ms=1, artifact_sha256="a" * 64, artifact_bytes=1, format="onnx",
        task="regression", features=(), self_test=(), reference=Reference(rows=1),
    ).model_copy(update=changes)  # fmt: skip


def manifest_of(fitted: Fitted, rows: Sequence[Row], version: int = 1, **changes: Any) -> Manifest:
    """Unsigned; its self-test asks ``rows``."""
    known = {
        "artifact_sha256": hashlib.sha256(fitted.data).hexdigest(), "artifact_bytes": len(fitted.data),
        "format": fitted.format, "task": fitted.task, "classes": fitted.classes, "features": fitted.features,
        "self_test": build_self_test(load(fitted, fitted.data), rows),
    }  # fmt: skip
    return manifest(version, **(known | changes))


def update_to(
    signer: Signer, generation: int, champion: tuple[int, str] | None, *, model: str = "m", **plan: object
) -> ModelUpdate:
    """A signed update; ``champion`` is (version, manifest digest)."""
    ref = VersionRef(version=champion[0], manifest_sha256=champion[1]) if champion else None
    return signer.sign(
        ModelUpdate(
            model=model,
            generation=generation,
            ts=generation,
            plan=Plan.model_validate({"champion": ref, **plan}),
            last_version=9,
            cause="test",
        )
    )
