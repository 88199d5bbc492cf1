"""Detectors on an error stream: ADWIN (one-sided), Page-Hinkley with its change point, and a rolling mean.

Each sees every error of its stream, one by one and in order, and finds where in the stream a change began:
an index that counts the stream's outcomes from 0. Their state is kept exactly: a detector that was restored
anywhere goes on as if it had not been.

References: Bifet & Gavaldà, "Learning from time-changing data with adaptive windowing" (SDM 2007); Page,
"Continuous inspection schemes" (Biometrika 41, 1954).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, count
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from river._river_rust.drift import (  # pyright: ignore[reportMissingModuleSource]
    AdaptiveWindowing,  # pyright: ignore[reportUnknownVariableType]
)

from ....schemas.spec.model import PageHinkleyRules
from ..state import State

FloatArray = npt.NDArray[np.float64]

# The paper's and river's own defaults; only delta is the user's.
ADWIN_CLOCK = 32
ADWIN_MAX_BUCKETS = 5
ADWIN_MIN_WINDOW = 5
ADWIN_GRACE = 10

# river's forgetting factor for the cumulative sum: what lies some 10,000 outcomes back has faded.
PAGE_HINKLEY_ALPHA = 1 - 0.0001


@dataclass(frozen=True, slots=True)
class Shift:
    """A detector fired on an outcome.

    ``at``: that outcome's index in the stream; ``change``: index of the first outcome after the change, by
    the detector's own account; ``since``: where the part of the stream begins that the detector had in
    view.
    """

    at: int
    change: int
    since: int
    direction: Literal["rise", "fall"]


class OneSidedAdwin(State):
    """ADWIN over values in [0, 1] which also reports whether the mean rose or fell.

    The window is river's: after a cut it keeps what came after (river's Python wrapper would empty it).
    """

    delta: float
    window: AdaptiveWindowing

    @classmethod
    def started(cls, delta: float) -> OneSidedAdwin:
        window = AdaptiveWindowing(delta, ADWIN_CLOCK, ADWIN_MAX_BUCKETS, ADWIN_MIN_WINDOW, ADWIN_GRACE)
        return cls(delta, window)

    @property
    def width(self) -> int:
        return int(self.window.get_width())

    def update(self, values: Sequence[float], start: int) -> list[Shift]:
        """Feed values whose first has index ``start``; return a shift per outcome that shrank the window."""
        shifts: list[Shift] = []
        width, total, done = self.width, float(self.window.get_total()), 0
        # compress() keeps the loop in C: it stops in Python only where update() returned True.
        for i in cast("Iterator[int]", compress(count(), map(self.window.update, values))):
            width += i + 1 - done
            total += math.fsum(values[done : i + 1])
            kept, kept_total = self.width, float(self.window.get_total())
            dropped_mean = (total - kept_total) / (width - kept) if width > kept else kept_total / kept
            shifts.append(
                Shift(
                    at=start + i,
                    change=start + i + 1 - kept,
                    since=start + i + 1 - width,
                    direction="rise" if kept_total / kept > dropped_mean else "fall",
                )
            )
            width, total, done = kept, kept_total, i + 1
        return shifts


class PageHinkleyTest(State):
    """One-sided Page-Hinkley: fires when the cumulative sum has risen ``threshold`` above its minimum.

    Equals river's ``PageHinkley(mode="up")`` outcome by outcome, and also keeps the argmin: the first outcome
    after the minimum is where the change began. It starts again after firing.
    """

    since: int = 0
    """Index of the first outcome since the last reset."""
    change: int = 0
    """Index of the first outcome after the minimum."""
    n: int = 0
    mean: float = 0.0
    sum: float = 0.0
    minimum: float = math.inf

    @classmethod
    def started(cls, at: int) -> PageHinkleyTest:
        """Begin with the outcome that has this index."""
        return cls(since=at, change=at)

    def update(self, values: Sequence[float], start: int, rule: PageHinkleyRules) -> list[Shift]:
        """Feed values whose first has index ``start``."""
        shifts: list[Shift] = []
        n, mean, total, minimum, change = self.n, self.mean, self.sum, self.minimum, self.change
        alpha, delta, threshold = PAGE_HINKLEY_ALPHA, rule.delta, rule.threshold
        for i, value in enumerate(values, start):
            n += 1
            mean += (value - mean) / n
            total = alpha * total + (value - mean) - delta
            if total < minimum:
                minimum, change = total, i + 1
            elif total - minimum > threshold and n >= rule.min_outcomes:
                shifts.append(Shift(at=i, change=change, since=self.since, direction="rise"))
                n, mean, total, minimum = 0, 0.0, 0.0, math.inf
                change = self.since = i + 1
        self.n, self.mean, self.sum, self.minimum, self.change = n, mean, total, minimum, change
        return shifts


class RollingErrors(State):
    """The newest ``window`` errors, in the stream's own units: of bits as bool, else as float64."""

    values: npt.NDArray[Any]

    @classmethod
    def started(cls, *, bits: bool) -> RollingErrors:
        return cls(np.zeros(0, np.bool_ if bits else np.float64))

    @property
    def bits(self) -> bool:
        return self.values.dtype == np.bool_

    @property
    def mean(self) -> float:
        # Summed each time: a running sum of floats would drift, and differently after a restore.
        return float(self.values.sum()) / len(self.values) if len(self.values) else 0.0

    def update(self, values: FloatArray, *, window: int) -> None:
        self.values = np.concatenate([self.values, values.astype(self.values.dtype, copy=False)])[-window:]
