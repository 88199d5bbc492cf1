"""From an index in an error stream back to positions in the log: per outcomes partition a seq and a time.

Outcomes of several input partitions lie interleaved in one error stream. Per message a span is kept; the
older spans are, the more of a partition's are merged into one, so that some hundreds reach back for ever.
Within a span, positions are exact if it is of one message and its seqs are consecutive, else interpolated.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from msgspec import Struct, field

from ....schemas.decisions import Change, ChangePosition
from ..observations import Observation
from ..state import State

RESOLUTION = 64  # a merged span covers at most this part of its age, times the number of partitions
SLACK = 128  # spans that may accumulate before thinning
CHUNK = 64  # outcomes per span where the seqs have gaps


class NextOutcome(NamedTuple):
    """The seq that a partition's next outcome will have, and a time at or before its own."""

    seq: int
    append_ms: int


class Span(Struct, array_like=True, frozen=True):
    """Outcomes of one partition within [start, end) of the stream; ``count`` of them, from ``seq`` on."""

    start: int
    end: int
    count: int
    seq: int
    append_ms: int
    ts_first: int
    ts_last: int

    def merged(self, later: Span) -> Span:
        return Span(
            self.start,
            later.end,
            self.count + later.count,
            self.seq,
            min(self.append_ms, later.append_ms),
            self.ts_first,
            later.ts_last,
        )

    def seq_at(self, index: int) -> int:
        return self.seq + self._into(index) * self.count // (self.end - self.start)

    def ts_at(self, index: int) -> int:
        return self.ts_first + (self.ts_last - self.ts_first) * self._into(index) // (self.end - self.start)

    def _into(self, index: int) -> int:
        return min(max(index, self.start), self.end) - self.start


class Positions(State):
    """Spans of one (model, version, role), and what comes next, by outcomes partition."""

    spans: dict[int, list[Span]] = field(default_factory=dict[int, list[Span]])
    next: dict[int, NextOutcome] = field(default_factory=dict[int, NextOutcome])
    limit: int = SLACK

    def update(self, seen: Observation, start: int) -> None:
        """``seen``'s first error has index ``start``."""
        count = len(seen.errors)
        if count == 0:
            self.next.setdefault(seen.partition, NextOutcome(0, seen.append_min_ms))
            return
        ts_min = seen.ts_min if seen.ts_min is not None else 0
        ts_max = seen.ts_max if seen.ts_max is not None else ts_min
        seqs = seen.seqs
        consecutive = int(seqs[-1]) - int(seqs[0]) == count - 1
        step = count if consecutive else max(CHUNK, -(-count // 16))
        spans = self.spans.setdefault(seen.partition, [])
        for i in range(0, count, step):
            size = min(step, count - i)
            spans.append(
                Span(
                    start + i,
                    start + i + size,
                    size,
                    int(seqs[i]),
                    seen.append_min_ms,
                    ts_min + (ts_max - ts_min) * i // count,
                    ts_min + (ts_max - ts_min) * (i + size) // count,
                )
            )
        self.next[seen.partition] = NextOutcome(int(seqs[-1]) + 1, seen.append_min_ms)
        if sum(len(spans) for spans in self.spans.values()) > self.limit:
            self._thin(start + count)

    def _thin(self, end: int) -> None:
        """Merge a partition's neighbours wherever they stay short against their age."""
        resolution = max(4, RESOLUTION // len(self.spans))
        for partition, spans in self.spans.items():
            kept: list[Span] = []  # newest first
            for span in reversed(spans):
                if kept and (kept[-1].end - span.start) * resolution <= end - kept[-1].end:
                    kept[-1] = span.merged(kept[-1])
                else:
                    kept.append(span)
            self.spans[partition] = kept[::-1]
        self.limit = sum(len(spans) for spans in self.spans.values()) + SLACK

    def change_at(self, index: int) -> Change | None:
        """Return where the outcome with this index lies; None before there was any.

        A partition without an outcome from there on has the next seq to come, with a time at or before it.
        """
        found: dict[str, ChangePosition] = {}
        times: list[tuple[bool, int]] = []
        for partition in sorted(self.next):
            spans = self.spans.get(partition, [])
            i = bisect_right(spans, index, key=lambda span: span.end)  # the first that ends after index
            if i < len(spans):
                times.append((spans[i].start > index, spans[i].ts_at(index)))  # better one that holds index
                seq, append_ms = spans[i].seq_at(index), spans[i].append_ms
            else:
                seq, append_ms = self.next[partition]
            found[str(partition)] = ChangePosition(seq=seq, append_ms=append_ms)
        if not times:
            times = [(True, spans[-1].ts_last) for spans in self.spans.values()]
        if not times:
            return None
        return Change(partitions=found, ts=max(0, min(times)[1]))
