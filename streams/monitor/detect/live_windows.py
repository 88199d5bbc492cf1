"""Tumbling windows of what is live, counted so that they can be held against a reference.

Sketches that merge at random cannot be replayed, so nothing is merged: the values of each incoming sketch
(exact, since it holds at most k) are counted between the reference's own quantiles, the only places where
it is known.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from ....schemas.serving import CategoryProfile, NumberProfile, Reference
from ..observations import Categories, Numbers, Observation
from .drift_tests import ReferenceCurve, TestResult, chi_squared, kolmogorov_smirnov

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

OTHER = "(other)"
NULL = "(null)"


class PointCounts:
    """How many values fell on and between points. Cell 2 i lies below points[i], cell 2 i + 1 on it."""

    def __init__(self, points: Float32Array) -> None:
        self.points = points
        self.cells = np.zeros(2 * len(points) + 1, dtype=np.int64)
        self.n = 0

    def add(self, values: Float32Array) -> None:
        cells = np.searchsorted(self.points, values, "left") + np.searchsorted(self.points, values, "right")
        self.cells += np.bincount(cells, minlength=len(self.cells))
        self.n += len(values)

    def below(self) -> FloatArray:
        """Share of values below each point."""
        return np.cumsum(self.cells)[0:-1:2] / max(self.n, 1)

    def upto(self) -> FloatArray:
        """Share of values at or below each point."""
        return np.cumsum(self.cells)[1::2] / max(self.n, 1)

    def quantile(self, rank: float) -> float:
        """The smallest point at or below which a share of ``rank`` lies; infinite beyond the last."""
        reached = np.flatnonzero(self.upto() >= rank)
        return float(self.points[reached[0]]) if len(reached) else float("inf")

    def dump(self) -> list[str]:
        small = np.min_scalar_type(int(self.cells.max(initial=0)))
        return [small.str, base64.b64encode(self.cells.astype(small).tobytes()).decode()]

    def load(self, state: list[str]) -> Self:
        """Take over counts that were dumped by one with the same points."""
        self.cells = np.frombuffer(base64.b64decode(state[1]), dtype=state[0]).astype(np.int64)
        self.n = int(self.cells.sum())
        return self


class NumberWindow:
    """Live values of one numeric feature against its profile."""

    def __init__(self, profile: NumberProfile) -> None:
        self._profile = profile
        self._curve = ReferenceCurve.of(profile.quantiles, profile.count)
        self._counts = PointCounts(self._curve.points)
        self._nulls = 0

    def add(self, numbers: Numbers) -> None:
        self._counts.add(numbers.values)
        self._nulls += numbers.nulls

    @property
    def rows(self) -> int:
        return self._counts.n + self._nulls

    def distribution(self) -> TestResult:
        """KS of the known values."""
        n = self._counts.n
        if n == 0 or self._profile.count == 0:
            return TestResult(0.0, 1.0)
        return kolmogorov_smirnov(self._curve, self._counts.below(), self._counts.upto(), n)

    def nulls(self) -> TestResult:
        """chi² of known against null."""
        return chi_squared(
            {"known": self._profile.count, NULL: self._profile.nulls},
            {"known": self._counts.n, NULL: self._nulls},
        )

    def dump(self) -> list[Any]:
        return [*self._counts.dump(), self._nulls]

    def load(self, state: list[Any]) -> None:
        self._counts.load(state[:2])
        self._nulls = int(state[2])


class CategoryWindow:
    """Live counts of one categorical feature; what its profile does not name is one class."""

    def __init__(self, profile: CategoryProfile) -> None:
        self._reference: dict[str, float] = {**profile.counts, OTHER: profile.other, NULL: profile.nulls}
        self._live: dict[str, int] = {}
        self.rows = 0

    def add(self, categories: Categories) -> None:
        for name, count in categories.counts.items():
            self._count(name if name in self._reference else OTHER, count)
        self._count(OTHER, categories.other)
        self._count(NULL, categories.nulls)

    def _count(self, name: str, count: int) -> None:
        if count:
            self._live[name] = self._live.get(name, 0) + count
            self.rows += count

    def distribution(self) -> TestResult:
        return chi_squared(self._reference, self._live)

    def dump(self) -> list[Any]:
        return sorted(self._live.items())

    def load(self, state: list[Any]) -> None:
        self._live = {name: int(count) for name, count in state}
        self.rows = sum(self._live.values())


class FeatureWindows:
    """All features of one reference."""

    def __init__(self, reference: Reference) -> None:
        self.numbers = {
            name: NumberWindow(profile)
            for name, profile in reference.numbers.items()
            if len(profile.quantiles) >= 2
        }
        self.categories = {name: CategoryWindow(profile) for name, profile in reference.categories.items()}

    def add(self, seen: Observation) -> None:
        """Features that the reference does not know are passed over."""
        for name, numbers in seen.numbers.items():
            if name in self.numbers:
                self.numbers[name].add(numbers)
        for name, categories in seen.categories.items():
            if name in self.categories:
                self.categories[name].add(categories)

    @property
    def rows(self) -> int:
        """Sampled rows in the window: those of the feature that has most."""
        windows = (*self.numbers.values(), *self.categories.values())
        return max((window.rows for window in windows), default=0)

    def dump(self) -> dict[str, Any]:
        return {
            "numbers": {name: window.dump() for name, window in self.numbers.items()},
            "categories": {name: window.dump() for name, window in self.categories.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a window that was dumped under the same reference."""
        for name, window in (*self.numbers.items(), *self.categories.items()):
            group = cast("dict[str, list[Any]]", state["numbers" if name in self.numbers else "categories"])
            window.load(group[name])


class ShareWindow:
    """Live counts of classes against the reference's shares; classes it does not name are one class."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = shares
        self._live: dict[str, int] = {}

    def add(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            name = name if name in self._shares else OTHER
            self._live[name] = self._live.get(name, 0) + count

    @property
    def rows(self) -> int:
        return sum(self._live.values())

    def distribution(self, reference_rows: int) -> TestResult:
        """``reference_rows``: how many answers are behind the shares."""
        return chi_squared({name: share * reference_rows for name, share in self._shares.items()}, self._live)

    def live_shares(self) -> dict[str, float]:
        return {name: count / self.rows for name, count in sorted(self._live.items())}

    def dump(self) -> dict[str, int]:
        return self._live

    def load(self, state: dict[str, int]) -> None:
        self._live = dict(state)
