"""Where a change began: the best split of a stream's error history into a before and an after.

ADWIN's buckets and Page-Hinkley's argmin show that a change happened long before they show where: ADWIN's
first cut keeps hundreds of outcomes from before it. So the history is kept in blocks of outcomes, fine
where recent and coarser with age, and the change is dated to the split that separates the means best (the
least-squares estimate of a single change point; Bai, "Least squares estimation of a shift in linear
processes", 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import field

from ..state import State

FloatArray = npt.NDArray[np.float64]

Direction = Literal["rise", "fall"]

BLOCK = 16
RESOLUTION = 64  # a merged block is at most this part of its age: about 1,000 blocks for a million
SLACK = 128  # blocks that may accumulate before thinning

MIN_BATCHES = 8  # with fewer, the spread of batch means is not known well enough
MAX_BATCHES = 20  # older ones say little about the time of the change


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A split of the stream in two; ``index`` is that of the first outcome after the change."""

    index: int
    before_n: int
    before_mean: float
    after_n: int
    after_mean: float

    @property
    def rise(self) -> float:
        return self.after_mean - self.before_mean


class ErrorHistory(State):
    """Sums of errors over consecutive blocks of the stream, oldest first; bounded."""

    limit: int = SLACK
    sizes: list[int] = field(default_factory=list[int])
    sums: list[float] = field(default_factory=list[float])

    def update(self, values: FloatArray) -> None:
        """Append errors in [0, 1], in order."""
        taken = self._fill_last(values)
        rest = values[taken:]
        if len(rest):
            starts = np.arange(0, len(rest), BLOCK)
            self.sums.extend(np.add.reduceat(rest, starts).tolist())
            self.sizes.extend(np.diff(np.append(starts, len(rest))).tolist())
        if len(self.sizes) > self.limit:
            self._thin()

    def _fill_last(self, values: FloatArray) -> int:
        if not self.sizes or self.sizes[-1] >= BLOCK:
            return 0
        taken = min(BLOCK - self.sizes[-1], len(values))
        self.sizes[-1] += taken
        self.sums[-1] += float(values[:taken].sum())
        return taken

    def _thin(self) -> None:
        """Merge neighbours, newest first, wherever their sum stays small against its age."""
        sizes: list[int] = []
        sums: list[float] = []
        age = 0  # outcomes after the block that is last in `sizes`
        for size, total in zip(reversed(self.sizes), reversed(self.sums), strict=True):
            if sizes and (sizes[-1] + size) * RESOLUTION <= age:
                sizes[-1] += size
                sums[-1] += total
            else:
                age += sizes[-1] if sizes else 0
                sizes.append(size)
                sums.append(total)
        self.sizes, self.sums = sizes[::-1], sums[::-1]
        self.limit = len(sizes) + SLACK

    def best_split(self, since: int, direction: Direction = "rise") -> ChangePoint | None:
        """Return the split of the outcomes from index ``since`` on that separates the means best.

        None when no split shows a move in ``direction``.
        """
        sizes, sums, ends = self._blocks()
        keep = ends > since
        sizes, sums, ends = sizes[keep], sums[keep], ends[keep]
        if len(sizes) < 2:
            return None
        before_n, before_sum = np.cumsum(sizes)[:-1], np.cumsum(sums)[:-1]
        after_n, after_sum = sizes.sum() - before_n, sums.sum() - before_sum
        move = (after_sum / after_n - before_sum / before_n) * (1 if direction == "rise" else -1)
        score = np.where(move > 0, before_n * after_n * move * move, 0.0)
        best = int(np.argmax(score))  # the earliest of equals
        if score[best] <= 0:
            return None
        return ChangePoint(
            index=int(ends[best]),
            before_n=int(before_n[best]),
            before_mean=float(before_sum[best] / before_n[best]),
            after_n=int(after_n[best]),
            after_mean=float(after_sum[best] / after_n[best]),
        )

    def deviations(self, split: ChangePoint, *, bits: bool) -> float:
        """Return the move across ``split`` in standard errors of what this stream does anyway.

        Errors of one day, shift or region resemble each other, so the binomial variance is too small for
        their means. It is replaced, where larger, by the long-run variance that means of as many outcomes
        showed before the change (non-overlapping batch means; Alexopoulos & Seila 1998).
        """
        means, counts = (split.before_mean, split.after_mean), (split.before_n, split.after_n)
        # For values in [0, 1] that are not bits, m (1 - m) is an upper bound of the variance.
        binomial = sum(n * m * (1 - m) for n, m in zip(counts, means, strict=True)) / sum(counts)
        long_run = self._long_run_variance(split.index, split.after_n)
        variance = binomial if long_run is None else max(binomial, long_run) if bits else long_run
        if variance <= 0:
            return math.inf
        return abs(split.rise) / math.sqrt(variance * (1 / split.before_n + 1 / split.after_n))

    def _long_run_variance(self, until: int, batch: int) -> float | None:
        """Return the variance per outcome by batch means before index ``until``; None with too few."""
        sizes, sums, ends = self._blocks()
        sizes, sums = sizes[ends <= until][::-1], sums[ends <= until][::-1]
        batch = min(batch, int(sizes.sum()) // MIN_BATCHES)
        if batch < BLOCK:
            return None
        group = (np.cumsum(sizes) - sizes) // batch  # counted back from the change
        batch_sizes = np.bincount(group, weights=sizes)
        batch_sums = np.bincount(group, weights=sums)
        whole = (batch_sizes >= batch / 2) & (np.arange(len(batch_sizes)) < MAX_BATCHES)
        batch_sizes, batch_sums = batch_sizes[whole], batch_sums[whole]
        if len(batch_sizes) < 2:
            return None
        mean = batch_sums.sum() / batch_sizes.sum()
        squares = (batch_sums - batch_sizes * mean) ** 2 / batch_sizes
        return float(squares.sum() / (len(batch_sizes) - 1))

    def newest_mean(self, n: int) -> float:
        """Return the mean of the newest ``n`` outcomes, rounded up to whole blocks; 0 without any."""
        sizes, sums, ends = self._blocks()
        keep = ends > sizes.sum() - n
        return float(sums[keep].sum() / sizes[keep].sum()) if keep.any() else 0.0

    def _blocks(self) -> tuple[npt.NDArray[np.int64], FloatArray, npt.NDArray[np.int64]]:
        sizes = np.array(self.sizes, dtype=np.int64)
        return sizes, np.array(self.sums), np.cumsum(sizes)
