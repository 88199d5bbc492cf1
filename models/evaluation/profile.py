"""Build the reference profile of a version: what was normal when it was made, to measure drift against.

Features and predictions are profiled over the newest rows (those after the change, when there was one), since
they are the world the version goes into; accuracy only over the hold-out, since the version knows the rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ...schemas.base import FeatureValue, class_name
from ...schemas.serving import CategoryProfile, FeatureSpec, NumberProfile, Reference, Task
from ..formats.features import Row
from .paired_errors import Floats, errors_of

QUANTILE_STEPS = 100  # resolves distribution functions to 0.01, well below any useful effect size
MAX_PROFILED = 100  # categories; the rest is counted as other
MIN_SEGMENT_ROWS = 10  # a mean error of fewer rows says nothing


def build_reference(
    rows: Sequence[Row],
    features: Sequence[FeatureSpec],
    *,
    task: Task,
    holdout_predictions: Sequence[str | float | None] = (),
    holdout_labels: Sequence[str | float] = (),
    holdout_segments: Sequence[Mapping[str, str]] = (),
    latency_p95_ms: float | None = None,
) -> Reference:
    """``rows`` give the feature profiles, the hold-out what concerns errors (segments: one per row, or none).

    A hold-out prediction of None is a failed request: it counts as an error, and in ``failure_rate``.
    """
    answered = [prediction for prediction in holdout_predictions if prediction is not None]
    errors = errors_of(task, holdout_predictions, holdout_labels)
    known = errors[~np.isnan(errors)]  # a failed request is an error of 1, or of no number
    mean = float(known.mean()) if len(known) else None
    shares = (
        Counter(str(prediction) for prediction in answered) if task == "classification" else Counter[str]()
    )
    return Reference(
        rows=len(rows),
        accuracy=1.0 - mean if task == "classification" and mean is not None else None,
        mean_error=mean if task == "regression" else None,
        latency_p95_ms=latency_p95_ms,
        failure_rate=1.0 - len(answered) / len(holdout_predictions) if holdout_predictions else 0.0,
        predicted={name: shares[name] / len(answered) for name in sorted(shares)} or None,
        numbers={
            feature.name: profile
            for feature in features
            if feature.type == "number" and (profile := _number([row.get(feature.name) for row in rows]))
        },
        categories={
            feature.name: _category([row.get(feature.name) for row in rows])
            for feature in features
            if feature.type != "number"
        },
        segments=_segments(errors, holdout_segments) if holdout_segments else {},
    )


def _number(values: Sequence[FeatureValue]) -> NumberProfile | None:
    known = np.array([value for value in values if isinstance(value, int | float)], dtype=np.float64)
    if not len(known):
        return None
    ranks = np.linspace(0, 1, QUANTILE_STEPS + 1)
    # Values that occurred, not values between them: a sketch of the same rows gives the same ones.
    quantiles = tuple(float(value) for value in np.quantile(known, ranks, method="inverted_cdf"))
    return NumberProfile(count=len(known), nulls=len(values) - len(known), quantiles=quantiles)


def _category(values: Sequence[FeatureValue]) -> CategoryProfile:
    counts = Counter(class_name(value) for value in values if value is not None)
    frequent = sorted(counts, key=lambda category: (-counts[category], category))[:MAX_PROFILED]
    kept = {category: counts[category] for category in sorted(frequent)}
    return CategoryProfile(
        count=counts.total(),
        nulls=len(values) - counts.total(),
        counts=kept,
        other=counts.total() - sum(kept.values()),
    )


def _segments(errors: Floats, segments: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    grouped: dict[str, dict[str, list[float]]] = {}
    for error, names in zip(errors.tolist(), segments, strict=True):
        if not math.isnan(error):
            for name, value in names.items():
                grouped.setdefault(name, {}).setdefault(value, []).append(error)
    return {
        name: {
            value: float(np.mean(of_value))
            for value, of_value in sorted(values.items())
            if len(of_value) >= MIN_SEGMENT_ROWS
        }
        for name, values in sorted(grouped.items())
    }
