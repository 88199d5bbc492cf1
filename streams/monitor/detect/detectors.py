"""Detectors on an error stream: ADWIN (one-sided), Page-Hinkley with its change point, and a rolling mean.

Each sees every error of its stream, one by one and in order, and finds where in the stream a change began:
an index that counts the stream's outcomes from 0. Their state is JSON of our own (``dump``, ``load``) and
exact: a detector that was dumped and loaded anywhere goes on as if it had not been.

References: Bifet & Gavaldà, "Learning from time-changing data with adaptive windowing" (SDM 2007); Page,
"Continuous inspection schemes" (Biometrika 41, 1954).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, count
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
from river._river_rust.drift import (  # pyright: ignore[reportMissingModuleSource]
    AdaptiveWindowing,  # pyright: ignore[reportUnknownVariableType]
)

from ....schemas.errors import StateError

FloatArray = npt.NDArray[np.float64]
State = dict[str, Any]

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
    the detector's own account; ``since``: where the stretch of the stream begins that the detector had in
    view.
    """

    at: int
    change: int
    since: int
    direction: Literal["rise", "fall"]


class OneSidedAdwin:
    """ADWIN over values in [0, 1] which also tells whether the mean rose or fell.

    The window is river's: after a cut it keeps what came after (river's Python wrapper would empty it).
    """

    def __init__(self, delta: float) -> None:
        self.delta = delta
        self._window: Any = AdaptiveWindowing(
            delta, ADWIN_CLOCK, ADWIN_MAX_BUCKETS, ADWIN_MIN_WINDOW, ADWIN_GRACE
        )

    @property
    def width(self) -> int:
        return int(self._window.get_width())

    def update(self, values: Sequence[float], start: int) -> list[Shift]:
        """Feed values whose first has index ``start``; a shift per outcome that made the window shrink."""
        shifts: list[Shift] = []
        width, total, done = self.width, float(self._window.get_total()), 0
        # compress() keeps the loop in C: it stops in Python only where update() returned True.
        for i in cast("Iterator[int]", compress(count(), map(self._window.update, values))):
            width += i + 1 - done
            total += math.fsum(values[done : i + 1])
            kept, kept_total = self.width, float(self._window.get_total())
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

    def dump(self) -> State:
        state = cast("bytes", self._window.__getstate__())
        return {"delta": self.delta, "window": base64.b64encode(state).decode()}

    @classmethod
    def load(cls, state: State) -> Self:
        """Raises StateError when the window's bytes are of another size than its buckets need."""
        detector = cls(float(state["delta"]))
        data = base64.b64decode(state["window"], validate=True)
        detector._window.__setstate__(data)
        if cast("bytes", detector._window.__getstate__()) != data:
            raise StateError("ADWIN's window does not survive its own restore: was river changed?")
        return detector


class PageHinkley:
    """One-sided Page-Hinkley: fires when the cumulative sum has risen ``threshold`` above its minimum.

    Equals river's ``PageHinkley(mode="up")`` outcome by outcome, and also keeps the argmin: the first outcome
    after the minimum is where the change began. It starts anew after firing.
    """

    def __init__(self, start: int = 0) -> None:
        self.since = start  # index of the first outcome seen since the last reset
        self.change = start  # index of the first outcome after the minimum
        self._n = 0
        self._mean = 0.0
        self._sum = 0.0
        self._minimum = math.inf

    def update(
        self, values: Sequence[float], start: int, *, delta: float, threshold: float, min_outcomes: int
    ) -> list[Shift]:
        """Feed values whose first has index ``start``."""
        shifts: list[Shift] = []
        n, mean, total, minimum, change = self._n, self._mean, self._sum, self._minimum, self.change
        alpha = PAGE_HINKLEY_ALPHA
        for i, value in enumerate(values, start):
            n += 1
            mean += (value - mean) / n
            total = alpha * total + (value - mean) - delta
            if total < minimum:
                minimum, change = total, i + 1
            elif total - minimum > threshold and n >= min_outcomes:
                shifts.append(Shift(at=i, change=change, since=self.since, direction="rise"))
                n, mean, total, minimum = 0, 0.0, 0.0, math.inf
                change = self.since = i + 1
        self._n, self._mean, self._sum, self._minimum, self.change = n, mean, total, minimum, change
        return shifts

    def dump(self) -> State:
        return {
            "since": self.since,
            "change": self.change,
            "n": self._n,
            "mean": self._mean,
            "sum": self._sum,
            "minimum": self._minimum if self._n else None,  # JSON has no infinity
        }

    @classmethod
    def load(cls, state: State) -> Self:
        detector = cls(int(state["since"]))
        detector.change = int(state["change"])
        detector._n = int(state["n"])
        detector._mean = float(state["mean"])
        detector._sum = float(state["sum"])
        detector._minimum = math.inf if state["minimum"] is None else float(state["minimum"])
        return detector


class RollingErrors:
    """The newest ``window`` errors and their mean, in the stream's own units."""

    def __init__(self, *, bits: bool) -> None:
        self._bits = bits
        self._values: FloatArray = np.zeros(0)
        self.mean = 0.0

    @property
    def count(self) -> int:
        return len(self._values)

    def update(self, values: FloatArray, *, window: int) -> None:
        self._values = np.concatenate([self._values, values])[-window:]
        # Summed anew: a running sum of floats would drift, and differently after a restore.
        self.mean = float(self._values.sum()) / len(self._values) if len(self._values) else 0.0

    def deviation(self) -> float:
        """Standard deviation of the window; 0 when it is empty."""
        return float(self._values.std()) if len(self._values) else 0.0

    def dump(self) -> State:
        raw = (
            np.packbits(self._values.astype(np.bool_)) if self._bits else self._values.astype("<f8")
        ).tobytes()
        return {"bits": self._bits, "count": self.count, "values": base64.b64encode(raw).decode()}

    @classmethod
    def load(cls, state: State) -> Self:
        rolling = cls(bits=bool(state["bits"]))
        raw, size = base64.b64decode(state["values"]), int(state["count"])
        if rolling._bits:
            values = np.unpackbits(np.frombuffer(raw, np.uint8), count=size).astype(np.float64)
        else:
            values = np.frombuffer(raw, "<f8", count=size).astype(np.float64)
        rolling.update(values, window=max(size, 1))
        return rolling
