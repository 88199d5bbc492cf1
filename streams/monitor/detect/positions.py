"""From an index in an error stream back to positions in the log: per outcomes partition a seq and a time.

Outcomes of several input partitions lie interleaved in one error stream. Per message a mark is kept; the
older marks are, the more of a partition's are merged into one, so that some hundreds reach back for ever.
Within a mark, positions are exact if it is one message's and its seqs are consecutive, else by their share of
the way.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Self

from ....schemas.decisions import Change, ChangePosition
from ..observations import Observation

RESOLUTION = 64  # a merged mark spans at most this part of its age, times the number of partitions
SLACK = 128  # marks that may gather before thinning
CHUNK = 64  # outcomes per mark where the seqs have gaps


@dataclass(slots=True)
class Mark:
    """Outcomes of one partition within [start, end) of the stream; ``count`` of them, from ``seq`` on."""

    start: int
    end: int
    count: int
    seq: int
    append_ms: int
    ts_first: int
    ts_last: int

    def row(self) -> list[int]:
        return [self.start, self.end, self.count, self.seq, self.append_ms, self.ts_first, self.ts_last]

    def joined(self, later: Mark) -> Mark:
        return Mark(
            self.start,
            later.end,
            self.count + later.count,
            self.seq,
            min(self.append_ms, later.append_ms),
            self.ts_first,
            later.ts_last,
        )

    def at(self, index: int) -> tuple[int, int]:
        """(seq, ts) at an index."""
        into = min(max(index - self.start, 0), self.end - self.start)
        span = self.end - self.start
        return (
            self.seq + into * self.count // span,
            self.ts_first + (self.ts_last - self.ts_first) * into // span,
        )


class Positions:
    """Marks of one (model, version, role)."""

    def __init__(self) -> None:
        self._marks: dict[int, list[Mark]] = {}
        self._next: dict[int, tuple[int, int]] = {}
        self._limit = SLACK

    def update(self, seen: Observation, start: int) -> None:
        """``seen``'s first error has index ``start``."""
        count = len(seen.errors)
        if count == 0:
            self._next.setdefault(seen.partition, (0, seen.append_min_ms))
            return
        ts_min = seen.ts_min if seen.ts_min is not None else 0
        ts_max = seen.ts_max if seen.ts_max is not None else ts_min
        seqs = seen.seqs
        consecutive = int(seqs[-1]) - int(seqs[0]) == count - 1
        step = count if consecutive else max(CHUNK, -(-count // 16))
        marks = self._marks.setdefault(seen.partition, [])
        for i in range(0, count, step):
            size = min(step, count - i)
            marks.append(
                Mark(
                    start + i,
                    start + i + size,
                    size,
                    int(seqs[i]),
                    seen.append_min_ms,
                    ts_min + (ts_max - ts_min) * i // count,
                    ts_min + (ts_max - ts_min) * (i + size) // count,
                )
            )
        self._next[seen.partition] = (int(seqs[-1]) + 1, seen.append_min_ms)
        if sum(len(marks) for marks in self._marks.values()) > self._limit:
            self._thin(start + count)

    def _thin(self, end: int) -> None:
        """Merge a partition's neighbours wherever their span stays small against its age."""
        resolution = max(4, RESOLUTION // len(self._marks))
        for partition, marks in self._marks.items():
            kept: list[Mark] = []  # newest first
            for mark in reversed(marks):
                if kept and (kept[-1].end - mark.start) * resolution <= end - kept[-1].end:
                    kept[-1] = mark.joined(kept[-1])
                else:
                    kept.append(mark)
            self._marks[partition] = kept[::-1]
        self._limit = sum(len(marks) for marks in self._marks.values()) + SLACK

    def change_at(self, index: int) -> Change | None:
        """Where the outcome with this index lies; None before there was any.

        A partition with no outcome from there on gives the next seq to come, with a time at or before it.
        """
        found: dict[str, ChangePosition] = {}
        times: list[tuple[bool, int]] = []
        for partition in sorted(self._next):
            marks = self._marks.get(partition, [])
            i = bisect_right(marks, index, key=lambda mark: mark.end)  # the first that ends after index
            if i < len(marks):
                seq, ts = marks[i].at(index)
                times.append((marks[i].start > index, ts))
                found[str(partition)] = ChangePosition(seq=seq, append_ms=marks[i].append_ms)
            else:
                seq, append_ms = self._next[partition]
                found[str(partition)] = ChangePosition(seq=seq, append_ms=append_ms)
        if not times:
            times = [(True, marks[-1].ts_last) for marks in self._marks.values()]
        if not times:
            return None
        return Change(partitions=found, ts=max(0, min(times)[1]))

    def dump(self) -> dict[str, Any]:
        return {
            "marks": [
                [partition, [mark.row() for mark in marks]] for partition, marks in self._marks.items()
            ],
            "limit": self._limit,
            "next": [[partition, *position] for partition, position in self._next.items()],
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        positions = cls()
        positions._marks = {p: [Mark(*row) for row in rows] for p, rows in state["marks"]}
        positions._next = {p: (seq, append_ms) for p, seq, append_ms in state["next"]}
        positions._limit = int(state["limit"])
        return positions
