"""Live features held against the reference's: which there are and what they are is as the reference says.

Live values are read as the reference has them, whatever the joiner took them for: 1 and 0 of a flag are true
and false, and true and false of a number are 1 and 0. A feature that the reference names and no row has any
more is missing in all of them, whether or not a spec declares it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import field

from ....schemas.base import class_name
from ....schemas.serving import CategoryProfile, Reference
from ....schemas.values.feature_values import KnownValues
from ....schemas.values.seen_names import SeenNames
from ....schemas.values.text import TRUE_FALSE, number_of
from ....schemas.vitals import FLOAT32_MAX, NAME_CHARS, CategoryCounts
from ..observations import Numbers, Observation
from ..state import State
from .drift_tests import ReferenceCurve, TestResult, chi_squared, kolmogorov_smirnov
from .live_windows import OTHER, ClassCounts, PointCounts

Float32Array = npt.NDArray[np.float32]

KNOWN = "known"
REST = "(rest)"
MISSING = "(missing)"
TEXT = "(text)"
MAX_UNFAMILIAR = 20
RARE_ROWS = 5  # of a name in the reference


@dataclass(frozen=True, slots=True)
class CategoryReference:
    """A category's rows by name, others among them, and how live values are read as these names."""

    rows: Mapping[str, float]
    seen: SeenNames
    known: KnownValues
    by_number: Mapping[float, str]

    @classmethod
    def of(cls, profile: CategoryProfile) -> CategoryReference:
        known = KnownValues(profile.counts)
        by_number = {
            _float32(number): name
            for number, name in reversed(known.numbers().items())  # two may be one in 32 bits: the first
        }
        rows = {**profile.counts, REST: profile.rest, OTHER: profile.other}
        return cls(rows, SeenNames.read(profile.seen or ""), known, by_number)

    def count(self, categories: CategoryCounts | None, numbers: Numbers | None, live: ClassCounts) -> None:
        """Add live values by the reference's names, and further ones as its rest or as others."""
        if categories is not None:
            names, counts = self.known, live.live
            for name, count in categories.counts.items():
                known = names[name]
                if known is None:
                    known = self._unnamed(name)
                counts[known] = counts.get(known, 0) + count
            live.add(OTHER, categories.other)
        if numbers is not None:
            values, rows = np.unique(numbers.values, return_counts=True)
            for value, count in zip(values.tolist(), rows.tolist(), strict=True):
                name = class_name(value)
                live.add(self.by_number.get(value) or self.known[name] or self._unnamed(name), count)

    def compare(self, live: ClassCounts) -> TestResult:
        """Test whether the names come as often as they did, and unknown ones as often as was estimated.

        If there are fewer unknown ones, the estimate was too high, and the others that are rare in the
        reference have its share.
        """
        rows, unknown = dict(self.rows), live.live.get(OTHER, 0) / live.rows * sum(self.rows.values())
        too_many = rows[OTHER] - unknown
        if too_many > 0:
            rare = {name: n for name, n in rows.items() if name == REST or n < RARE_ROWS} | {OTHER: 0}
            shared = sum(rare.values())
            rows |= {name: n + too_many * n / shared for name, n in rare.items() if shared}
            rows[REST] += 0 if shared else too_many
            rows[OTHER] = unknown
        return chi_squared(rows, live.live)

    def _unnamed(self, name: str) -> str:
        if name in self.seen:
            return REST
        number = number_of(name)  # "1.0" of one that was seen as 1
        return REST if number is not None and class_name(number) in self.seen else OTHER


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """What live features are compared with, computed once per reference. ``present``: of how many rows."""

    curves: Mapping[str, ReferenceCurve]
    categories: Mapping[str, CategoryReference]
    present: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, reference: Reference) -> FeatureReference:
        profiles = {
            name: profile
            for name, profile in (reference.numbers | reference.categories).items()
            if len(name) <= NAME_CHARS  # vitals leave out others
        }
        curves = {
            name: ReferenceCurve.of(profile.quantiles, profile.count)
            for name, profile in reference.numbers.items()
            if name in profiles and len(profile.quantiles) >= 2
        }
        categories = {
            name: CategoryReference.of(profile)
            for name, profile in reference.categories.items()
            if name in profiles
        }
        return cls(
            curves,
            categories,
            {
                name: {KNOWN: profiles[name].count, MISSING: profiles[name].nulls}
                for name in (*curves, *categories)
            },
        )


@dataclass(frozen=True, slots=True)
class FeatureTest:
    """One test of one feature in a full window."""

    detector: str
    name: str
    result: TestResult
    rows: int
    live: Mapping[str, int]
    """``nulls``: rows with a value, without one, and with a text instead of a number."""


class FeatureWindows(State):
    """All features of one reference. The maps are by feature, and hold the reference's alone."""

    points: dict[str, PointCounts]
    categories: dict[str, ClassCounts]
    nulls: dict[str, int]
    texts: dict[str, int]
    """Where the reference has a number."""
    ahead: dict[str, int] = field(default_factory=dict[str, int])
    """Rows that the window before has counted, before it knew of how many rows they were."""
    reported: int = 0
    """Rows whose features have all come."""
    unfamiliar: dict[str, None] = field(default_factory=dict[str, None])
    """Features that came and the reference does not know."""

    @classmethod
    def empty(cls, reference: FeatureReference, ahead: Mapping[str, int] | None = None) -> FeatureWindows:
        return cls(
            {name: PointCounts.empty(curve.points) for name, curve in reference.curves.items()},
            {name: ClassCounts() for name in reference.categories},
            dict.fromkeys(reference.present, 0),
            dict.fromkeys(reference.curves, 0),
            dict(ahead or {}),
        )

    def next(self, reference: FeatureReference) -> FeatureWindows:
        """Return an empty window that goes on where this one ends."""
        if not self.reported:
            return self.empty(reference)
        ahead = {name: self._counted(name) - self.reported for name in self.nulls}
        return self.empty(reference, {name: rows for name, rows in ahead.items() if rows > 0})

    def add(self, seen: Observation, reference: FeatureReference, named: Collection[str]) -> None:
        """Count an observation's features. ``named``: those whose numbers the joiner counts by name."""
        self.reported += seen.rows
        for name, curve in reference.curves.items():
            numbers, categories = seen.numbers.get(name), seen.categories.get(name)
            if numbers is not None:
                self.points[name].add(numbers.values, curve.points)
                self.nulls[name] += numbers.nulls
            if categories is not None:
                amounts = _amounts(categories, parse=name in named)
                self.points[name].add(amounts, curve.points)
                self.texts[name] += sum(categories.counts.values()) + categories.other - len(amounts)
                self.nulls[name] += categories.nulls
        for name, known in reference.categories.items():
            numbers, categories = seen.numbers.get(name), seen.categories.get(name)
            known.count(categories, numbers, self.categories[name])
            self.nulls[name] += numbers.nulls if numbers is not None else 0
            self.nulls[name] += categories.nulls if categories is not None else 0
        for name in (*seen.numbers, *seen.categories):
            if name not in self.nulls and len(self.unfamiliar) < MAX_UNFAMILIAR:
                self.unfamiliar[name] = None

    @property
    def rows(self) -> int:
        """Sampled rows in the window: as reported, or those of the feature that has most."""
        return max(self.reported, *(self._counted(name) for name in self.nulls), 0)

    def tests(self, reference: FeatureReference) -> Iterator[FeatureTest]:
        """Yield a test of the values where there are any, and one of how many are missing, per feature."""
        for name, curve in reference.curves.items():
            points = self.points[name]
            if points.n and curve.count:
                result = kolmogorov_smirnov(curve, points.below(), points.upto(), points.n)
                yield FeatureTest("ks", name, result, points.n, {})
            yield from self._presence(name, reference, points.n)
        for name, known in reference.categories.items():
            live = self.categories[name]
            if live.rows:
                yield FeatureTest("chi2", name, known.compare(live), live.rows, {})
            yield from self._presence(name, reference, live.rows)

    def _presence(self, name: str, reference: FeatureReference, known: int) -> Iterator[FeatureTest]:
        absent = max(0, self.reported - self._counted(name))
        live = {KNOWN: known, MISSING: self.nulls[name] + absent, TEXT: self.texts.get(name, 0)}
        if rows := sum(live.values()):
            yield FeatureTest("nulls", name, chi_squared(reference.present[name], live), rows, live)

    def _counted(self, name: str) -> int:
        points = self.points.get(name)
        values = self.categories[name].rows if points is None else points.n + self.texts[name]
        return values + self.nulls[name] + self.ahead.get(name, 0)


def _amounts(categories: CategoryCounts, *, parse: bool) -> Float32Array:
    """Return true as 1 and false as 0, and names that are numbers if ``parse``."""
    values: list[float] = []
    for name, count in categories.counts.items():
        number = TRUE_FALSE.get(name)
        if number is None and parse:
            number = number_of(name)
        if number is not None:
            values += [_float32(number)] * count
    return np.array(values, dtype=np.float32)


def _float32(number: float) -> float:
    """Return a number as a sketch holds it."""
    return float(np.float32(min(max(number, -FLOAT32_MAX), FLOAT32_MAX)))
