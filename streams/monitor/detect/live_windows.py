"""Tumbling windows of what is live, counted so that they can be held against a reference.

Sketches that merge at random cannot be replayed, so nothing is merged: the values of each incoming sketch
(exact, since it holds at most k) are counted between the reference's own quantiles, the only places where
it is known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from msgspec import field

from ..state import State
from .drift_tests import TestResult, chi_squared

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

OTHER = "(other)"
MAX_CLASSES = 1_000


class PointCounts(State):
    """How many values fell on and between points. Bin 2 i lies below points[i], bin 2 i + 1 on it."""

    bins: npt.NDArray[np.int64]
    n: int = 0

    @classmethod
    def empty(cls, points: Float32Array) -> PointCounts:
        return cls(np.zeros(2 * len(points) + 1, dtype=np.int64))

    def add(self, values: Float32Array, points: Float32Array) -> None:
        bins = np.searchsorted(points, values, "left") + np.searchsorted(points, values, "right")
        self.bins += np.bincount(bins, minlength=len(self.bins))
        self.n += len(values)

    def below(self) -> FloatArray:
        """Return the share of values below each point."""
        return np.cumsum(self.bins)[0:-1:2] / max(self.n, 1)

    def upto(self) -> FloatArray:
        """Return the share of values at or below each point."""
        return np.cumsum(self.bins)[1::2] / max(self.n, 1)


class ClassCounts(State):
    """Live counts of classes or categories."""

    live: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, name: str, count: int) -> None:
        self.live[name] = self.live.get(name, 0) + count

    def add_all(self, counts: Mapping[str, int]) -> None:
        """Count each by its own name, at most ``MAX_CLASSES``, and further ones together."""
        for name, count in counts.items():
            self.add(name if name in self.live or len(self.live) < MAX_CLASSES else OTHER, count)

    @property
    def rows(self) -> int:
        return sum(self.live.values())

    def distribution(self, reference: Mapping[str, float]) -> TestResult:
        """chi² of the counts."""
        return chi_squared(reference, self.live)
