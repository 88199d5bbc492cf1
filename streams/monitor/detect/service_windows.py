"""Tumbling windows over how requests were served: latency, failures, and errors per segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec import field

from ....schemas.serving import Reference
from ....schemas.vitals import Counts
from ..observations import Numbers, Observation
from ..state import State
from .drift_tests import above
from .error_stream import normal_error
from .live_windows import PointCounts

# 0.01 ms to about 17 minutes in steps of 2.9 %: what p95 can be wrong by.
LATENCY_POINTS = np.round(10.0 ** (np.arange(-160, 481) / 80), 6).astype(np.float32)
MAX_SEGMENT_VALUES = 256  # per segment name; errors of further values are not counted


class LatencyWindow(State):
    """Latencies of answered requests, in milliseconds."""

    counts: PointCounts = field(default_factory=lambda: PointCounts.empty(LATENCY_POINTS))

    def add(self, latency: Numbers | None) -> None:
        if latency is not None:
            self.counts.add(latency.values, LATENCY_POINTS)

    @property
    def rows(self) -> int:
        return self.counts.n

    def p95(self) -> float:
        """Return the 95th percentile, rounded up to the next point, at most the last."""
        reached = np.flatnonzero(self.counts.upto() >= 0.95)
        return float(LATENCY_POINTS[reached[0] if len(reached) else -1])


class ServedWindow(State):
    """Requests and the failed ones among them."""

    rows: int = 0
    failed: int = 0

    def add(self, counts: Counts) -> None:
        self.rows += counts.predictions
        self.failed += counts.failed


@dataclass(frozen=True, slots=True)
class SegmentGap:
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


class SegmentTotal(State):
    """Outcomes of one segment value and the sum of their errors."""

    count: int = 0
    error_sum: float = 0.0


class SegmentWindow(State):
    """Outcomes and errors per segment value."""

    rows: int = 0
    bits: bool = True
    squares: float = 0.0
    totals: dict[str, dict[str, SegmentTotal]] = field(default_factory=dict[str, dict[str, SegmentTotal]])

    def add(self, seen: Observation) -> None:
        if not seen.segments or len(seen.errors) == 0:
            return
        self.rows += len(seen.errors)
        self.bits = seen.bits
        self.squares += float(np.square(seen.errors).sum())
        for name, values in seen.segments.items():
            known = self.totals.setdefault(name, {})
            for value, errors in values.items():
                if value in known or len(known) < MAX_SEGMENT_VALUES:
                    total = known.setdefault(value, SegmentTotal())
                    total.count += errors.count
                    total.error_sum += errors.error_sum

    def gaps(self, reference: Reference, min_rows: int) -> list[SegmentGap]:
        """Return one gap per segment value with enough rows, in it and in the others, in a fixed order."""
        gaps: list[SegmentGap] = []
        for name in sorted(self.totals):
            values = self.totals[name]
            count = sum(total.count for total in values.values())
            error_sum = sum(total.error_sum for total in values.values())
            for value, own in sorted(values.items()):
                others = SegmentTotal(count - own.count, error_sum - own.error_sum)
                if own.count >= min_rows and others.count >= min_rows:
                    gaps.append(self._gap(reference, name, value, own, others))
        return gaps

    def _gap(
        self, reference: Reference, name: str, value: str, own: SegmentTotal, others: SegmentTotal
    ) -> SegmentGap:
        n, others_n = own.count, others.count
        mean, others_mean = own.error_sum / n, others.error_sum / others_n
        overall = (own.error_sum + others.error_sum) / (n + others_n)
        unit = 1.0 if self.bits else max(others_mean, 1e-12)
        normal = _normal_gap(reference, name, value, bits=self.bits)
        variance = max(self.squares / self.rows - overall * overall, 0.0)
        excess = (mean - others_mean) / unit - normal
        return SegmentGap(
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


def _normal_gap(reference: Reference, name: str, value: str, *, bits: bool) -> float:
    """Return the gap that the reference has: a segment may simply be harder."""
    of_value = reference.segments.get(name, {}).get(value)
    overall = normal_error(reference, bits=bits)
    if of_value is None or not overall:
        return 0.0
    return of_value - overall if bits else of_value / overall - 1
