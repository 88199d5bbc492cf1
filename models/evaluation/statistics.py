"""Paired statistics: two models evaluated on the same rows, and estimates with their intervals.

McNemar's test looks only at rows where exactly one of the two is right; it takes rows as independent. Rows
that come in time are not quite: neighbours share weather, campaigns, outages. The block bootstrap resamples
runs of neighbouring rows, so what they share stays together; it is the careful choice for bursty data. What
neither can know is how the next week differs from the hold-out: follow-up stages and rollback are for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc, ndtri

from ...schemas.runs import Interval
from .paired_errors import Floats

RESAMPLES = 4000  # a p-value near 0.05 is then known to about ±0.007
CONFIDENCE = 0.95


def mcnemar(only_candidate: int, only_champion: int) -> float:
    """One-sided mid-p value: how probable so many wins of the candidate are if both are equally good.

    ``only_candidate``: rows that it alone got right. The mid-p of the exact binomial test keeps its level
    and refuses less often (Fagerland, Lydersen & Laake 2013).
    """
    discordant = only_candidate + only_champion
    if discordant == 0:
        return 1.0
    more, at_least = bdtrc([only_candidate, only_candidate - 1], discordant, 0.5)
    return float(more + (at_least - more) / 2)


class Bootstrap(NamedTuple):
    """The one-sided p-value of a mean above 0, and the mean's percentile interval."""

    p: float
    interval: Interval


def block_bootstrap(differences: Floats, *, seed: int) -> Bootstrap:
    """Test whether the mean difference is above 0.

    ``differences`` in time order. Circular blocks of ⌈n^⅓⌉ rows (Politis & Romano 1992; the order of growth
    is Hall, Horowitz & Jing 1995). The p-value is of the differences shifted to a mean of 0.
    """
    count = len(differences)
    mean = float(differences.mean()) if count else 0.0
    if count < 2 or not np.any(differences != differences[0]):
        # No spread to resample. All rows on one side is then a sign test.
        return Bootstrap(0.5**count if mean > 0 else 1.0, Interval(value=mean, low=mean, high=mean))
    length = math.ceil(count ** (1 / 3))
    blocks = math.ceil(count / length)
    starts = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, blocks))
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([differences, differences[:length]]))])
    means = (sums[starts + length] - sums[starts]).sum(axis=1) / (blocks * length)
    beyond = int(np.count_nonzero(means - mean >= mean))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    p = (1 + beyond) / (RESAMPLES + 1)
    return Bootstrap(p, Interval(value=mean, low=float(low), high=float(high)))


def wilson(successes: int, count: int) -> Interval:
    """A proportion with Wilson's score interval (1927): sensible at 0, at 1 and for few rows."""
    if count == 0:
        return Interval(value=0.0, low=0.0, high=1.0)
    z = float(ndtri(1 - (1 - CONFIDENCE) / 2))
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == count else min(centre + half, 1.0)
    return Interval(value=share, low=low, high=high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order (Holm 1979)."""
    order = np.argsort(p_values)
    raised = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.minimum(raised, 1.0))
    return corrected.tolist()
