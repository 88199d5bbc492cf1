"""Labelled rows: what an outcome teaches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..schemas.base import FeatureValue
from ..schemas.spec import ModelSpec

LabelValue = str | float


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One row to learn from or to judge by. ``seq`` and ``partition`` say where in outcomes it came from."""

    prediction_id: str
    ts: int
    seq: int
    partition: int
    features: dict[str, FeatureValue]
    label: LabelValue
    segments: dict[str, str]
    prediction: LabelValue | None
    version: int


def rows_from_outcomes(values: Iterable[bytes], spec: ModelSpec, *, partition: int = 0) -> list[LabelledRow]:
    raise NotImplementedError
