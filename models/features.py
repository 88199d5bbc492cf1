"""From named feature values to the model's input: one float32 column per feature, in a stated order.

Category → index in ``FeatureSpec.categories``; unseen and null → NaN; bool → 0/1. The same encoder is used
to fit, to judge and to serve, so a row means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..schemas.base import FeatureValue
from ..schemas.errors import Error
from ..schemas.serving import FeatureSpec
from ..schemas.spec import ModelSpec

Row = Mapping[str, FeatureValue]
Matrix = NDArray[np.float32]


class FeatureError(Error, ValueError):
    """A feature's value is not of its type."""


def infer_features(spec: ModelSpec, rows: Iterable[Row]) -> tuple[FeatureSpec, ...]:
    raise NotImplementedError


class FeatureEncoder:
    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        raise NotImplementedError

    def encode(self, rows: Sequence[Row]) -> Matrix:
        raise NotImplementedError
