"""Build the reference profile of a version: what was normal when it was made, to measure drift against.

Features and predictions are profiled over the newest rows (those after the change, when there was one), since
they are the world the version goes into; accuracy only over the hold-out, since the version knows the rest.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from ...schemas.base import FeatureValue
from ...schemas.serving import CategoryProfile, FeatureSpec, NumberProfile, Reference, Task
from ...schemas.values.feature_values import FLAGS, KnownValues, value_name
from ...schemas.values.seen_names import SeenNames
from ...schemas.vitals import NAME_CHARS
from ..formats.features import Row
from .paired_errors import Floats, errors_of

QUANTILE_STEPS = 100  # resolves distribution functions to 0.01, well below any useful effect size
MAX_PROFILED = 100  # categories; the rest is counted together
WELL_SEEN = 5  # rows: where each value has so many, hardly one is missing (e⁻⁵)
OFTEN = 8  # rows of one half: so many are hardly chance
MAX_UNSEEN = 0.5  # of the rows
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
            feature.name: _category([row.get(feature.name) for row in rows], feature)
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


def _category(values: Sequence[FeatureValue], feature: FeatureSpec) -> CategoryProfile:
    """Count the values by name, at most ``MAX_PROFILED`` of them, and the rest together.

    Where every value was seen often, all are named and all rows count. Else a random half of the rows says
    which values are often there, and the other half counts: what a sample has most of, it has by chance too.
    """
    names = [None if value is None else value_name(value, feature.type) for value in values]
    if feature.type == "bool":
        return _profile(names, FLAGS)
    known = KnownValues(feature.categories or ())
    names = [None if name is None else known.name_of(name) for name in names]
    counts = _counts(names)
    if len(counts) <= MAX_PROFILED and min(counts.values(), default=WELL_SEEN) >= WELL_SEEN:
        return _profile(names, tuple(counts))
    places: list[int] = np.random.default_rng(0).permutation(len(names)).tolist()  # rows may come in turns
    half = len(names) // 2
    often = _counts([names[place] for place in places[:half]])
    ranked = [name for name, count in often.most_common() if count >= OFTEN]
    counted = [names[place] for place in places[half:]]
    unseen = sum(count == 1 for count in counts.values()) / counts.total()  # as Good (1953) estimates it
    if unseen > MAX_UNSEEN:  # hardly a value comes twice: which of them were seen says nothing
        return _profile(counted, ranked)
    rare = {name for name, count in counts.items() if count < WELL_SEEN}
    # No order by count among the others: counts so small differ by chance alone.
    ranked += sorted(counts.keys() - set(ranked), key=lambda name: zlib.crc32(name.encode()))
    return _profile(counted, ranked, rare, unseen)


def _profile(
    names: Sequence[str | None],
    ranked: Sequence[str],
    rare: Collection[str] = (),
    unseen: float = 0.0,
) -> CategoryProfile:
    """Count ``names``, given in random order: the first of ``ranked`` each, further ones of it together.

    ``unseen``: the estimated share of rows with a value that no row here has. So many rows of values that are
    ``rare`` here count as such ones, since it is those that other rows would have instead.
    """
    short = [name for name in ranked if len(name) <= NAME_CHARS]
    named, further = sorted(short[:MAX_PROFILED]), frozenset(short[MAX_PROFILED:])
    seen = SeenNames.of(short if further else ())
    known = [name for name in names if name is not None]
    unknown = [name for name in known if name in rare][: round(unseen * len(known))]
    counts = _counts(known)
    counts.subtract(unknown)
    kept = {name: counts[name] for name in named}
    rest = sum(counts[name] for name in further) + round(seen.fill * len(unknown))
    return CategoryProfile(
        count=len(known),
        nulls=len(names) - len(known),
        counts=kept,
        rest=rest,
        other=len(known) - sum(kept.values()) - rest,
        seen=seen.text() if seen.bits else None,
    )


def _counts(names: Iterable[str | None]) -> Counter[str]:
    return Counter(name for name in names if name is not None)


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
