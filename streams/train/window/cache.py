"""Outcomes kept at hand: each model's newest ones, so that a window need not be read from the log.

The thread that follows outcomes adds what it reads. For each model and partition a stretch of the log without
a hole is kept, from ``low`` to where that thread is, so that what is taken from here is what reading those
offsets would give. Memory is bounded by bytes: where they do not suffice, the model that has most of them
loses its oldest rows, and its windows are read from the log again, in that part.

No Kafka, no clock. Thread safe. On failure: ``forget``; everything here can be read again.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...kafka.reader import Record
from .prefix import Head, model_prefix

# Append time, offset, prediction_id, seq, whether it is a row (else a correction), value. A plain tuple: the
# garbage collector lets go of those that hold only atoms, and there are a hundred thousand of them.
Kept = tuple[int, int, str, int, bool, bytes]

Broken = tuple[Record, str]

ROW_BYTES = 400  # what a kept outcome takes beside its value's bytes
SLACK = 1.25  # rows are dropped a quarter of a window at a time
NOWHERE = 2**62  # past every offset
EXPECTED_BYTES = 512  # of an outcome, to guess how far back to begin


class Followed(NamedTuple):
    """One outcome as it was read. ``head`` None: it is none, and ``broken`` has it whole, and why."""

    prefix: bytes
    partition: int
    offset: int
    append_ms: int
    head: Head | None
    value: bytes
    broken: Broken | None = None


@dataclass(slots=True)
class Stretch:
    """A model's outcomes of one partition. Those below ``low`` were appended at or before ``since_ms``;
    None: nobody knows."""

    low: int
    high: int
    since_ms: int | None
    rows: list[Kept] = field(default_factory=list[Kept])
    unreadable: list[Broken] = field(default_factory=list[Broken])

    def place(self, offset: int) -> int:
        """Where in ``rows`` that offset is, or would be."""
        return bisect_left(self.rows, offset, key=lambda kept: kept[1])


@dataclass(frozen=True, slots=True)
class Warm:
    """What was kept of one model at one moment."""

    stretches: Mapping[int, Stretch]

    def span(self, partition: int) -> tuple[int, int]:
        """From where to where a partition is here."""
        stretch = self.stretches.get(partition)
        return (NOWHERE, NOWHERE) if stretch is None else (stretch.low, stretch.high)

    def between(self, partition: int, start: int, end: int) -> list[Kept]:
        """What is here of a range, in order."""
        stretch = self.stretches.get(partition)
        return [] if stretch is None else stretch.rows[stretch.place(start) : stretch.place(end)]

    def unreadable(self, partition: int, start: int, end: int) -> list[Broken]:
        """What is none, of a range."""
        stretch = self.stretches.get(partition)
        broken = [] if stretch is None else stretch.unreadable
        return [(record, reason) for record, reason in broken if start <= record.offset < end]

    def reach_back(
        self, until: Mapping[int, int], floor: Mapping[int, int], wanted: int
    ) -> dict[int, int] | None:
        """Offsets with the newest ``wanted`` rows between them and ``until``, all of one moment and later;
        the ``floor`` where there are fewer. None where what is here does not say."""
        if wanted <= 0:
            return {p: max(end, floor[p]) for p, end in until.items()}
        rows: dict[int, list[Kept]] = {}
        for p, end in until.items():
            stretch = self.stretches.get(p)
            if end <= floor[p]:
                rows[p] = []
            elif stretch is None or end > stretch.high or end < stretch.low:
                return None
            else:
                rows[p] = stretch.rows[stretch.place(floor[p]) : stretch.place(end)]
        open_below = [self.stretches[p] for p, end in until.items() if end > floor[p] < self.stretches[p].low]
        times = np.fromiter((kept[0] for of in rows.values() for kept in of if kept[4]), dtype=np.int64)
        if len(times) < wanted:
            return None if open_below else dict(floor)
        moment = int(np.partition(times, len(times) - wanted)[len(times) - wanted])
        if any(stretch.since_ms is None or stretch.since_ms >= moment for stretch in open_below):
            return None  # some of that moment may lie below what is here
        return {
            p: next((kept[1] for kept in of if kept[0] >= moment), max(until[p], floor[p]))
            for p, of in rows.items()
        }


@dataclass(slots=True)
class _Model:
    """What is kept of one model."""

    keep: int
    stretches: dict[int, Stretch]
    rows: int = 0
    size: int = 0


class OutcomeCache:
    """Each model's newest outcomes, within ``max_bytes`` for all; 0: nothing is kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._models: dict[bytes, _Model] = {}
        self._at: dict[int, int] = {}
        self._first_ms: dict[int, int] = {}
        self._last_ms: dict[int, int] = {}
        self._news = False

    # --- who wants what ---------------------------------------------------------------------------------

    def keep(self, rows: Mapping[str, int]) -> None:
        """The models to keep, and how many rows of each: others are forgotten."""
        if not self._max_bytes:
            return
        with self._lock:
            wanted = {model_prefix(model): count for model, count in rows.items()}
            for prefix in [prefix for prefix in self._models if prefix not in wanted]:
                del self._models[prefix]
            for prefix, count in wanted.items():
                known = self._models.get(prefix)
                if known is not None and count <= known.keep:
                    known.keep = count
                else:
                    self._models[prefix] = _Model(count, self._from_here())
                    self._news = True

    @property
    def news(self) -> bool:
        """Whether there are models whose older rows were never read: ``begin`` anew, further back."""
        return self._news

    @property
    def followed(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._models)

    def keeps(self, prefix: bytes) -> bool:
        return prefix in self._models

    def expected(self) -> int:
        """How many records hold what is wanted, if all outcomes were of these models."""
        with self._lock:
            rows = sum(model.keep for model in self._models.values()) * SLACK
        return int(min(rows, self._max_bytes / (EXPECTED_BYTES + ROW_BYTES)))

    # --- who follows ------------------------------------------------------------------------------------

    def begin(self, at: Mapping[int, int]) -> None:
        """All is forgotten; what is added next begins at these offsets."""
        with self._lock:
            self._at, self._first_ms, self._last_ms = dict(at), {}, {}
            self._news = False
            for prefix, model in self._models.items():
                self._models[prefix] = _Model(model.keep, self._from_here())

    def forget(self) -> None:
        self.begin({})
        self._news = bool(self._models)

    def add(self, outcomes: Iterable[Followed], seen_ms: Mapping[int, int], at: Mapping[int, int]) -> None:
        """What was read next, in order per partition. ``seen_ms``: the append time of the last record of each
        partition; ``at``: where the reader is. What is here already is passed over."""
        with self._lock:
            for found in outcomes:
                model = self._models.get(found.prefix)
                if model is not None and found.offset >= self._at.get(found.partition, found.offset + 1):
                    self._first_ms.setdefault(found.partition, found.append_ms)
                    self._add(model, found)
            for partition, offset in at.items():
                if offset > self._at.get(partition, offset):
                    self._at[partition] = offset
                    if partition in seen_ms:
                        self._first_ms.setdefault(partition, seen_ms[partition])
                        self._last_ms[partition] = seen_ms[partition]
            self._shrink()

    def of(self, model: str) -> Warm:
        """What is kept of a model now."""
        with self._lock:
            known = self._models.get(model_prefix(model))
            if known is None:
                return Warm({})
            return Warm(
                {
                    p: Stretch(s.low, self._at[p], self._since(p, s), s.rows.copy(), s.unreadable.copy())
                    for p, s in known.stretches.items()
                    if p in self._at
                }
            )

    # --- parts ------------------------------------------------------------------------------------------

    def _from_here(self) -> dict[int, Stretch]:
        return {p: Stretch(offset, offset, self._last_ms.get(p)) for p, offset in self._at.items()}

    def _since(self, partition: int, stretch: Stretch) -> int | None:
        return stretch.since_ms if stretch.since_ms is not None else self._first_ms.get(partition)

    def _add(self, model: _Model, found: Followed) -> None:
        stretch = model.stretches[found.partition]
        head = found.head
        if head is None:
            if found.broken is not None:
                stretch.unreadable.append(found.broken)
                model.size += len(found.value) + ROW_BYTES
            return
        if head.is_shadow:
            return
        stretch.rows.append(
            (found.append_ms, found.offset, head.prediction_id, head.seq, head.is_row, found.value)
        )
        model.rows += 1
        model.size += len(found.value) + ROW_BYTES

    def _shrink(self) -> None:
        for model in self._models.values():
            if model.rows > model.keep * SLACK:
                self._trim(model, model.keep)
        while sum(model.size for model in self._models.values()) > self._max_bytes:
            largest = max(self._models.values(), key=lambda model: model.size)
            self._trim(largest, largest.rows * 3 // 4)

    def _trim(self, model: _Model, keep: int) -> None:
        """Drops what is older than the newest ``keep``; all of it where one moment holds more than that."""
        times = np.fromiter((kept[0] for s in model.stretches.values() for kept in s.rows), dtype=np.int64)
        moment = (
            int(np.partition(times, len(times) - keep)[len(times) - keep]) if 0 < keep < len(times) else 0
        )
        if not (times < moment).any():
            model.stretches, model.rows, model.size = self._from_here(), 0, 0
            return
        model.rows = model.size = 0
        for stretch in model.stretches.values():
            dropped = bisect_left(stretch.rows, moment, key=lambda kept: kept[0])
            if dropped:
                stretch.low = stretch.rows[dropped - 1][1] + 1
                stretch.since_ms = max(kept[0] for kept in stretch.rows[:dropped])
                del stretch.rows[:dropped]
            stretch.unreadable = [one for one in stretch.unreadable if one[0].offset >= stretch.low]
            model.rows += len(stretch.rows)
            model.size += sum(len(kept[5]) for kept in stretch.rows) + ROW_BYTES * len(stretch.rows)
            model.size += sum(len(one[0].value or b"") + ROW_BYTES for one in stretch.unreadable)
