"""The reference profile of a version: what was normal when it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..schemas.serving import FeatureSpec, Reference, Task
from .features import Row


def build_reference(
    rows: Sequence[Row],
    features: Sequence[FeatureSpec],
    *,
    task: Task,
    holdout_predictions: Sequence[str | float] = (),
    holdout_labels: Sequence[str | float] = (),
    holdout_segments: Sequence[Mapping[str, str]] = (),
    latency_p95_ms: float | None = None,
) -> Reference:
    raise NotImplementedError
