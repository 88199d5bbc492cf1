"""Labelled rows: what a model can learn from an outcome.

A request is one row, however many versions answered it and however often its label was corrected: shadows
are left out (the champion's outcome has the same features and label), the newest revision counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..schemas.base import ClassValue, FeatureValue, class_name
from ..schemas.events import Outcome
from ..schemas.serving import FeatureType
from ..schemas.spec.model import ModelSpec
from ..schemas.values.classes import Classes, are_one_class, one_spelling
from ..schemas.values.feature_values import value_name

LabelValue = str | float


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One row to train or to evaluate on. ``seq`` and ``partition`` say where in outcomes it came from."""

    prediction_id: str
    ts: int
    seq: int
    partition: int
    features: dict[str, FeatureValue]
    label: LabelValue
    segments: dict[str, str]
    prediction: LabelValue | None
    version: int


def rows_from_outcomes(
    values: Iterable[bytes], spec: ModelSpec, *, partition: int = 0, classes: tuple[str, ...] | None = None
) -> list[LabelledRow]:
    """Rows of one outcomes partition, in the order in which each request was first seen.

    ``classes``: the champion's, for a spec that declares none; of two, a "wrong" says which is right.

    Left out: shadows, labels that are no class of the spec or no number, and feedback that does not tell
    the truth ("wrong" with more than two classes). Raises DecodeError for bytes that are not an outcome.
    """
    types = spec.declared_types() if spec.segments else {}
    newest: dict[str, tuple[int, LabelledRow | None]] = {}
    for value in values:
        outcome = Outcome.decode(value)
        if outcome.role == "shadow":
            continue
        known = newest.get(outcome.prediction_id)
        if known is None or outcome.revision >= known[0]:
            row = _row(outcome, spec, types, partition, spec.classes or classes)
            newest[outcome.prediction_id] = (outcome.revision, row)
    return [row for _, row in newest.values() if row is not None]


def in_one_spelling(
    rows: Sequence[LabelledRow], spec: ModelSpec, classes: tuple[str, ...] | None
) -> list[LabelledRow]:
    """Return the rows with one name per class, where the spec declares none. ``classes``: the champion's."""
    if spec.task == "regression" or spec.classes is not None:
        return list(rows)
    spelled = one_spelling((str(row.label) for row in rows), classes or ())
    return [
        row if row.label == (name := spelled[str(row.label)]) else replace(row, label=name) for row in rows
    ]


def segments_of(
    row: Mapping[str, FeatureValue], segments: Iterable[str], types: Mapping[str, FeatureType]
) -> dict[str, str]:
    """Return which segment a row is in, by each feature that makes segments; null is in none."""
    return {
        name: value_name(value, types.get(name)) for name in segments if (value := row.get(name)) is not None
    }


def _row(
    outcome: Outcome,
    spec: ModelSpec,
    types: Mapping[str, FeatureType],
    partition: int,
    classes: tuple[str, ...] | None,
) -> LabelledRow | None:
    label = _label(outcome, spec, classes)
    if label is None:
        return None
    known = outcome.features | (outcome.segments or {})  # a segment may be a feature that was not repeated
    return LabelledRow(
        prediction_id=outcome.prediction_id,
        ts=outcome.ts,
        seq=outcome.seq,
        partition=partition,
        features=outcome.features,
        label=label,
        segments=segments_of(known, spec.segments, types),
        prediction=_value(outcome.prediction, spec),
        version=outcome.version,
    )


def _label(outcome: Outcome, spec: ModelSpec, classes: tuple[str, ...] | None) -> LabelValue | None:
    if outcome.label is not None:
        return _value(outcome.label, spec)
    answer = _value(outcome.prediction, spec)
    if outcome.correct is None or answer is None:
        return None
    if outcome.correct:
        return answer
    if spec.task == "classification" and classes is not None and len(classes) == 2:
        first, second = (are_one_class(name, str(answer)) for name in classes)
        return None if first == second else classes[1] if first else classes[0]
    return None


def _value(value: ClassValue | None, spec: ModelSpec) -> LabelValue | None:
    if value is None:
        return None
    if spec.task == "regression":
        return None if isinstance(value, str | bool) else float(value)
    return class_name(value) if spec.classes is None else Classes.of(spec.classes).read(value)
