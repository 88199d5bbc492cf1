"""Tumbling windows of what is live, counted so that they can be held against a reference.

Sketches that merge at random cannot be replayed, so nothing is merged: the values of each incoming sketch
(exact, since it holds at most k) are counted between the reference's own quantiles, the only places where
it is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import field

from ....schemas.serving import Reference
from ..observations import Numbers, Observation
from ..state import State
from .drift_tests import ReferenceCurve, TestResult, chi_squared, kolmogorov_smirnov

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

OTHER = "(other)"
NULL = "(null)"
KNOWN = "known"


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


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """What live features are compared with, computed once per reference. Categories: rows of each."""

    curves: Mapping[str, ReferenceCurve]
    nulls: Mapping[str, Mapping[str, float]]
    categories: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, reference: Reference) -> FeatureReference:
        numbers = {
            name: profile for name, profile in reference.numbers.items() if len(profile.quantiles) >= 2
        }
        return cls(
            {name: ReferenceCurve.of(known.quantiles, known.count) for name, known in numbers.items()},
            {name: {KNOWN: known.count, NULL: known.nulls} for name, known in numbers.items()},
            {
                name: {**known.counts, OTHER: known.other, NULL: known.nulls}
                for name, known in reference.categories.items()
            },
        )


class NumberWindow(State):
    """Live values of one numeric feature."""

    counts: PointCounts
    nulls: int = 0

    def add(self, numbers: Numbers, points: Float32Array) -> None:
        self.counts.add(numbers.values, points)
        self.nulls += numbers.nulls

    @property
    def rows(self) -> int:
        return self.counts.n + self.nulls

    def distribution(self, reference: ReferenceCurve) -> TestResult:
        """KS of the known values."""
        n = self.counts.n
        if n == 0 or reference.count == 0:
            return TestResult(0.0, 1.0)
        return kolmogorov_smirnov(reference, self.counts.below(), self.counts.upto(), n)

    def null_share(self, reference: Mapping[str, float]) -> TestResult:
        """chi² of known against null."""
        return chi_squared(reference, {KNOWN: self.counts.n, NULL: self.nulls})


class ClassWindow(State):
    """Live counts of classes or categories; those that the reference does not name are one."""

    live: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, counts: Mapping[str, int], reference: Mapping[str, float]) -> None:
        for name, count in counts.items():
            name = name if name in reference else OTHER
            self.live[name] = self.live.get(name, 0) + count

    @property
    def rows(self) -> int:
        return sum(self.live.values())

    def distribution(self, reference: Mapping[str, float]) -> TestResult:
        """chi² of the counts."""
        return chi_squared(reference, self.live)


class FeatureWindows(State):
    """All features of one reference."""

    numbers: dict[str, NumberWindow]
    categories: dict[str, ClassWindow]

    @classmethod
    def empty(cls, reference: FeatureReference) -> FeatureWindows:
        return cls(
            {name: NumberWindow(PointCounts.empty(curve.points)) for name, curve in reference.curves.items()},
            {name: ClassWindow() for name in reference.categories},
        )

    def add(self, seen: Observation, reference: FeatureReference) -> None:
        """Count an observation's features; those that the reference does not know are passed over."""
        for name, numbers in seen.numbers.items():
            if name in self.numbers:
                self.numbers[name].add(numbers, reference.curves[name].points)
        for name, categories in seen.categories.items():
            if name in self.categories:
                window, known = self.categories[name], reference.categories[name]
                window.add(categories.counts, known)
                window.add({OTHER: categories.other, NULL: categories.nulls}, known)

    @property
    def rows(self) -> int:
        """Sampled rows in the window: those of the feature that has most."""
        windows = (*self.numbers.values(), *self.categories.values())
        return max((window.rows for window in windows), default=0)
