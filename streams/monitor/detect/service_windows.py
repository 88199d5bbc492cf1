"""Tumbling windows over how requests were served: latency, failures, and errors per segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ....schemas.serving import Reference
from ....schemas.vitals import Counts
from ..observations import Numbers, Observation
from .drift_tests import above
from .live_windows import PointCounts

# 0.01 ms to about 17 minutes in steps of 2.9 %: what p95 can be wrong by.
LATENCY_POINTS = np.round(10.0 ** (np.arange(-160, 481) / 80), 6).astype(np.float32)
MAX_SEGMENT_VALUES = 256  # per segment name; beyond that errors go to nobody's account


class LatencyWindow:
    """Latencies of answered requests, in milliseconds."""

    def __init__(self) -> None:
        self._counts = PointCounts(LATENCY_POINTS)

    def add(self, latency: Numbers | None) -> None:
        if latency is not None:
            self._counts.add(latency.values)

    @property
    def rows(self) -> int:
        return self._counts.n

    def p95(self) -> float:
        """Rounded up to the next point, at most the last."""
        return min(self._counts.quantile(0.95), float(LATENCY_POINTS[-1]))

    def clear(self) -> None:
        self._counts = PointCounts(LATENCY_POINTS)

    def dump(self) -> list[int]:
        """Cell and count of the cells that are not empty."""
        cells = np.flatnonzero(self._counts.cells)
        return np.column_stack([cells, self._counts.cells[cells]]).ravel().tolist()

    def load(self, state: list[int]) -> None:
        pairs = np.array(state, dtype=np.int64).reshape(-1, 2)
        self._counts.cells[pairs[:, 0]] = pairs[:, 1]
        self._counts.n = int(pairs[:, 1].sum())


class ServedWindow:
    """Requests and the failed ones among them."""

    def __init__(self) -> None:
        self.rows = 0
        self.failed = 0

    def add(self, counts: Counts) -> None:
        self.rows += counts.predictions
        self.failed += counts.failed

    def clear(self) -> None:
        self.rows = self.failed = 0

    def dump(self) -> list[int]:
        return [self.rows, self.failed]

    def load(self, state: list[int]) -> None:
        self.rows, self.failed = state


@dataclass(frozen=True, slots=True)
class Gap:
    """How much worse one segment value fares than all others, beyond what is normal for it.

    For numbers gaps are relative to the others' mean error.
    """

    segment: str
    value: str
    n: int
    mean: float
    others_n: int
    others_mean: float
    normal: float
    excess: float
    p: float


class SegmentWindow:
    """Outcomes and errors per segment value."""

    def __init__(self) -> None:
        self.rows = 0
        self._bits = True
        self._squares = 0.0
        self._sums: dict[str, dict[str, list[float]]] = {}

    def add(self, seen: Observation) -> None:
        if not seen.segments or len(seen.errors) == 0:
            return
        self.rows += len(seen.errors)
        self._bits = seen.bits
        self._squares += float(np.square(seen.errors).sum())
        for name, values in seen.segments.items():
            known = self._sums.setdefault(name, {})
            for value, errors in values.items():
                if value in known or len(known) < MAX_SEGMENT_VALUES:
                    total = known.setdefault(value, [0, 0.0])
                    total[0] += errors.count
                    total[1] += errors.error_sum

    def clear(self) -> None:
        self.__init__()

    def gaps(self, reference: Reference, min_rows: int) -> list[Gap]:
        """One per segment value with enough rows, and enough rows in the others, in a fixed order."""
        gaps: list[Gap] = []
        for name in sorted(self._sums):
            values = self._sums[name]
            total_n = sum(int(n) for n, _ in values.values())
            total_sum = sum(errors for _, errors in values.values())
            for value in sorted(values):
                n, errors = int(values[value][0]), values[value][1]
                if n >= min_rows and total_n - n >= min_rows:
                    gaps.append(self._gap(reference, name, value, n, errors, total_n - n, total_sum - errors))
        return gaps

    def _gap(
        self, reference: Reference, name: str, value: str, n: int, errors: float, others_n: int, others: float
    ) -> Gap:
        mean, others_mean = errors / n, others / others_n
        overall = (errors + others) / (n + others_n)
        unit = 1.0 if self._bits else max(others_mean, 1e-12)
        normal = _normal_gap(reference, name, value, bits=self._bits)
        variance = max(self._squares / self.rows - overall * overall, 0.0)
        excess = (mean - others_mean) / unit - normal
        return Gap(
            segment=name,
            value=value,
            n=n,
            mean=mean,
            others_n=others_n,
            others_mean=others_mean,
            normal=normal,
            excess=excess,
            p=above(excess * unit, variance * (1 / n + 1 / others_n)),
        )

    def dump(self) -> list[Any]:
        return [self.rows, self._bits, self._squares, self._sums]

    def load(self, state: list[Any]) -> None:
        self.rows, self._bits, self._squares = int(state[0]), bool(state[1]), float(state[2])
        self._sums = cast("dict[str, dict[str, list[float]]]", state[3])


def _normal_gap(reference: Reference, name: str, value: str, *, bits: bool) -> float:
    """The gap that the reference had already: a segment may simply be harder."""
    of_value = reference.segments.get(name, {}).get(value)
    overall = (
        reference.mean_error if not bits else (None if reference.accuracy is None else 1 - reference.accuracy)
    )
    if of_value is None or not overall:
        return 0.0
    return of_value - overall if bits else of_value / overall - 1
