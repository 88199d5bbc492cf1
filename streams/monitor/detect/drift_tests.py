"""Has a distribution changed? Two-sample tests with effect sizes.

A test of significance fires on any difference once samples are large, so each returns an effect size too, and
callers require both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, kolmogorov, ndtr

from ....schemas.vitals import FLOAT32_MAX

FloatArray = npt.NDArray[np.float64]

MIN_EXPECTED = 2.0  # of many cells; below it, two samples of one distribution differ too often
RARE = "(rare)"


@dataclass(frozen=True, slots=True)
class TestResult:
    """``effect`` in [0, 1], ``p`` the probability of such a difference (or more) without a change."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    effect: float
    p: float
    where: str = ""
    """Where the difference is largest: a value or a category."""
    by_chance: float = 0.0
    """The effect to expect without a change (root mean square)."""

    @property
    def real(self) -> float:
        """The effect without what chance alone has, as Bergsma (2013) corrects Cramér's V."""
        return math.sqrt(max(0.0, self.effect**2 - self.by_chance**2))


@dataclass(frozen=True, slots=True)
class ReferenceCurve:
    """What evenly spaced quantiles say about a distribution function, ties included.

    ``points``: the distinct quantiles, float32 as the sketches are. The true P(X < point) lies in
    [below_low, below_high] and P(X ≤ point) in [upto_low, upto_high]: quantiles know ranks only to one step.
    """

    points: npt.NDArray[np.float32]
    below_low: FloatArray
    below_high: FloatArray
    upto_low: FloatArray
    upto_high: FloatArray
    count: int

    @classmethod
    def of(cls, quantiles: Sequence[float], count: int) -> ReferenceCurve:
        """``quantiles`` at ranks 0, 1/m, …, 1, ascending, at least two."""
        values = np.clip(quantiles, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)  # as sketches are
        points, first = np.unique(values, return_index=True)
        steps = len(values) - 1
        last = np.append(first[1:], len(values)) - 1
        return cls(
            points=points,
            below_low=np.maximum(first - 1, 0) / steps,
            below_high=first / steps,
            upto_low=last / steps,
            upto_high=np.minimum(last + 1, steps) / steps,
            count=count,
        )


def kolmogorov_smirnov(reference: ReferenceCurve, below: FloatArray, upto: FloatArray, n: int) -> TestResult:
    """Distance of a live sample of ``n`` from a reference known by its quantiles.

    ``below`` and ``upto``: the live shares < and ≤ each of the reference's points. The distance is to the
    nearest distribution that has these quantiles, so that coarse or tied quantiles raise no alarm. The
    p-value is the asymptotic two-sample one (Smirnov 1939).
    """
    gaps = np.maximum.reduce(
        [
            reference.below_low - below,
            below - reference.below_high,
            reference.upto_low - upto,
            upto - reference.upto_high,
            np.zeros(len(below)),
        ]
    )
    where = int(np.argmax(gaps))
    distance = float(gaps[where])
    size = n * reference.count / (n + reference.count)
    return TestResult(
        distance, float(kolmogorov(math.sqrt(size) * distance)), repr(float(reference.points[where]))
    )


def chi_squared(reference: Mapping[str, float], live: Mapping[str, float]) -> TestResult:
    """Two counts per category. The effect is Cramér's V of the table with both samples weighted equally.

    With the sizes as they are, V would shrink as the reference grows, for the same change. Categories that
    both samples hardly have are pooled, as the test's approximation asks. Two samples of one distribution
    have a mean V² of (categories - 1) (1 / n + 1 / m) / 4: 0.15² with 100 categories and 2,200 rows each.
    """
    reference_n, live_n = sum(reference.values()), sum(live.values())
    if reference_n <= 0 or live_n <= 0:
        return TestResult(0.0, 1.0)
    total = reference_n + live_n
    smaller = min(reference_n, live_n)
    table: dict[str, tuple[float, float]] = {}
    for name in sorted(reference.keys() | live.keys()):
        pair = (reference.get(name, 0.0), live.get(name, 0.0))
        if not sum(pair):
            continue
        key = name if sum(pair) * smaller / total >= MIN_EXPECTED else RARE
        known = table.get(key, (0.0, 0.0))
        table[key] = (known[0] + pair[0], known[1] + pair[1])
    statistic, v_squared, worst, where = 0.0, 0.0, -1.0, ""
    for name, (a, b) in table.items():
        expected = (a + b) / total
        statistic += (a - reference_n * expected) ** 2 / (reference_n * expected)
        statistic += (b - live_n * expected) ** 2 / (live_n * expected)
        p, q = a / reference_n, b / live_n
        v_squared += (p - q) ** 2 / (p + q) / 2
        if abs(p - q) > worst:
            worst, where = abs(p - q), name
    if len(table) < 2:
        return TestResult(0.0, 1.0)
    freedom = len(table) - 1
    by_chance = math.sqrt(freedom * (1 / reference_n + 1 / live_n)) / 2
    return TestResult(math.sqrt(v_squared), float(chdtrc(freedom, statistic)), where, by_chance)


def more_often(successes: float, n: int, reference_rate: float, reference_n: int) -> float:
    """One-sided p-value of ``successes`` in ``n`` against a rate seen in ``reference_n`` (pooled z-test)."""
    pooled = (successes + reference_rate * reference_n) / (n + reference_n)
    return above(
        successes / n - reference_rate,
        pooled * (1 - pooled) * (1 / n + (1 / reference_n if reference_n else 0)),
    )


def above(difference: float, variance: float) -> float:
    """One-sided p-value of a difference of means whose variance is known."""
    if variance <= 0:
        return 0.0 if difference > 0 else 1.0
    return float(ndtr(-difference / math.sqrt(variance)))


def rounded(value: float) -> float:
    """Six significant digits: what a person checks, and free of the last bits that machines disagree on."""
    return float(f"{value:.6g}")
