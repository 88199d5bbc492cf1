"""Summaries of bounded size for vitals: sketches of numbers, counts of names.

A KLL sketch (Apache DataSketches) gets at most ``SAMPLE`` values, so it never compacts (compaction draws
random numbers) and gives the values back. What names may cost is bounded: ``NAMES`` distinct ones per map,
those with the most records first (then by name); the rest, and names above ``NAME_CHARS``, are summed.
"""

from __future__ import annotations

import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from datasketches import (  # a compiled module, without types
    kll_floats_sketch,  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]
)

from ....schemas.base import FeatureValue
from ....schemas.serving import FeatureType
from ....schemas.values.feature_values import value_name
from ....schemas.vitals import FLOAT32_MAX, NAME_CHARS

SAMPLE = 200
NAMES = SAMPLE  # a feature's are then all told: of equally frequent ones none is left out for its name
OTHER = "other"
FEW = 16  # up to so many values are sent as they are, and plain Python beats numpy and Counter on them

_AMOUNTS = frozenset({int, float})
_TEXTS = frozenset({str})
_NUMERIC: tuple[FeatureType | None, ...] = (None, "number")
_NO_CLASSES: Mapping[str, int] = {}

Json = dict[str, object]


class FeatureSummaries(NamedTuple):
    """Summaries by feature name."""

    numbers: dict[str, Json]
    categories: dict[str, Json]


class SplitColumn(NamedTuple):
    """A feature's values: numbers, how often each class comes, and how many values are missing."""

    amounts: Sequence[float]
    classes: Mapping[str, int]
    nulls: int


class MostFrequent(NamedTuple):
    """The names with the most records, and how many records the others have."""

    kept: dict[str, int]
    rest: int


def summarise_features(
    rows: Sequence[Mapping[str, FeatureValue]], declared_types: Mapping[str, FeatureType]
) -> FeatureSummaries:
    """Return sketches of numbers and counts of categories, by what the spec says, else by the values.

    A missing feature counts as null. A text where a number should be shows up among the categories; where a
    bool should be, it shows up there in quotes, since ``"true"`` is not one.
    """
    numbers: dict[str, Json] = {}
    categories: dict[str, Json] = {}
    names: dict[str, None] = dict.fromkeys(declared_types) if rows else {}
    for row in rows:
        names.update(dict.fromkeys(row))
    for name in names:
        if len(name) > NAME_CHARS:
            continue
        declared = declared_types.get(name)
        amounts, classes, nulls = _split([row.get(name) for row in rows], declared)
        if classes or (declared is not None and declared != "number"):
            categories[name] = category_counts(classes, 0 if amounts or declared == "number" else nulls)
        if amounts or declared == "number" or name not in categories:
            numbers[name] = number_sketch(amounts, nulls)
    return FeatureSummaries(numbers, categories)


def _split(column: Sequence[FeatureValue], declared: FeatureType | None) -> SplitColumn:
    kinds = set(map(type, column))
    if kinds <= _AMOUNTS and declared in _NUMERIC:
        return SplitColumn(cast("Sequence[float]", column), _NO_CLASSES, 0)
    if kinds <= _TEXTS and declared != "bool":
        return SplitColumn((), counted(cast("Sequence[str]", column)), 0)
    amounts: list[float] = []
    classes: Counter[str] = Counter()
    for value in column:
        if value is None:
            continue
        if _is_amount(value, declared):
            amounts.append(float(value))  # pyright: ignore[reportArgumentType]
        elif declared == "bool" and isinstance(value, str):
            classes[f'"{value}"'] += 1
        else:
            classes[value_name(value, declared)] += 1
    return SplitColumn(amounts, classes, column.count(None))


def _is_amount(value: FeatureValue, declared: str | None) -> bool:
    if declared is None:
        return type(value) is float or type(value) is int
    return declared == "number" and not isinstance(value, str)


def counted(names: Sequence[str]) -> dict[str, int]:
    """Count each name; for a few names a Counter takes longer to make than they take to count."""
    if len(names) > FEW:
        return Counter(names)
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def category_counts(classes: Mapping[str, int], nulls: int) -> Json:
    kept, rest = most_frequent(classes, NAMES)
    return {"count": sum(classes.values()), "nulls": nulls, "counts": kept, "other": rest}


def most_frequent(counts: Mapping[str, int], most: int) -> MostFrequent:
    """Keep at most ``most`` names."""
    if len(counts) <= most and max(map(len, counts), default=0) <= NAME_CHARS:
        return MostFrequent(dict(counts), 0)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = dict([item for item in ranked if len(item[0]) <= NAME_CHARS][:most])
    return MostFrequent(kept, sum(counts.values()) - sum(kept.values()))


def bounded_counts(counts: Mapping[str, int], most: int) -> dict[str, int]:
    kept, rest = most_frequent(counts, most)
    return kept | {OTHER: rest + kept.get(OTHER, 0)} if rest else kept


def number_sketch(values: Sequence[float], nulls: int = 0) -> Json:
    """Return an entry as ``schemas.vitals.NumberSketch`` describes it."""
    if not values:
        return {"count": 0, "nulls": nulls}
    if min(values) < -FLOAT32_MAX or max(values) > FLOAT32_MAX:
        values = [min(max(value, -FLOAT32_MAX), FLOAT32_MAX) for value in values]
    if len(values) <= FEW:
        return {"count": len(values), "nulls": nulls, "values": values}
    sketch = cast("Any", kll_floats_sketch(SAMPLE))
    sketch.update(np.array(values, dtype=np.float32))
    return {"count": len(values), "nulls": nulls, "kll": base64_text(sketch.serialize())}


def base64_text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
