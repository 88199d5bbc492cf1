"""A cache of each model's newest outcomes, so that a window need not be read from the log.

The thread that follows outcomes adds what it reads. Per model and partition the cache holds one segment of
the log without a hole, from ``low`` to that thread's position, so it holds exactly what reading those offsets
would return. Memory is bounded by bytes: beyond the limit, the largest model loses its oldest rows, and that
part of its windows is read from the log again.

No Kafka, no clock. Thread safe. On failure: call ``forget``; everything here can be read again.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ...kafka.record import Record
from .prefix import OutcomeKey, model_prefix

# A plain tuple and not a NamedTuple: the garbage collector stops tracking plain tuples of atoms, and there
# are a hundred thousand of them. What is not a row is a correction.
CachedOutcome = tuple[int, int, str, int, bool, bytes]
APPEND_MS: Final = 0
OFFSET: Final = 1
PREDICTION_ID: Final = 2
SEQ: Final = 3
IS_ROW: Final = 4
VALUE: Final = 5

ROW_BYTES = 400  # what a cached outcome takes beside its value's bytes
SLACK = 1.25  # rows are dropped a quarter of a window at a time
NOWHERE = 2**62  # past every offset
EXPECTED_BYTES = 512  # of an outcome, to guess how far back to begin


class UnreadableOutcome(NamedTuple):
    """A record that is not an outcome, and why."""

    record: Record
    reason: str


class FollowedOutcome(NamedTuple):
    """One record as it was read; ``found``: its key, or why it is not an outcome."""

    prefix: bytes
    partition: int
    offset: int
    append_ms: int
    found: OutcomeKey | UnreadableOutcome
    value: bytes


@dataclass(slots=True)
class LogSegment:
    """A model's outcomes of one partition, from ``low`` to before ``high``: cached nowhere by default.

    Those below ``low`` were appended at or before ``since_ms``; None: unknown.
    """

    low: int = NOWHERE
    high: int = NOWHERE
    since_ms: int | None = None
    rows: list[CachedOutcome] = field(default_factory=list[CachedOutcome])
    unreadable: list[UnreadableOutcome] = field(default_factory=list[UnreadableOutcome])

    def place(self, offset: int) -> int:
        """The index in ``rows`` where that offset is, or would be."""
        return bisect_left(self.rows, offset, key=lambda row: row[OFFSET])

    def between(self, start: int, end: int) -> list[CachedOutcome]:
        """The outcomes of a range, in order."""
        return self.rows[self.place(start) : self.place(end)]


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """The cached outcomes of one model at one moment."""

    segments: Mapping[int, LogSegment] = field(default_factory=dict[int, LogSegment])

    def segment(self, partition: int) -> LogSegment:
        """A partition's segment; an empty one past every offset if nothing of it is cached."""
        return self.segments.get(partition) or LogSegment()

    def moment(self, until: Mapping[int, int], floor: Mapping[int, int], wanted: int) -> int | None:
        """The append time of the oldest of the newest ``wanted`` rows between ``floor`` and ``until``: 0
        where there are fewer, None if the cache cannot tell."""
        times: list[int] = []
        open_below: list[LogSegment] = []
        for p, end in until.items():
            segment = self.segment(p)
            if end > floor[p]:
                if not segment.low <= end <= segment.high:
                    return None
                times += [row[APPEND_MS] for row in segment.between(floor[p], end) if row[IS_ROW]]
                if floor[p] < segment.low:
                    open_below.append(segment)
        moment = nth_newest(times, wanted)
        if any(segment.since_ms is None or segment.since_ms >= moment for segment in open_below):
            return None  # some rows of that moment may lie below what is cached
        return moment


def nth_newest(times: list[int], n: int) -> int:
    """The ``n``-th newest of some times, at least the first; 0 where there are fewer."""
    return sorted(times)[-n] if n <= len(times) else 0


@dataclass(slots=True)
class _Model:
    """The cached outcomes of one model; ``keep``: how many rows it should hold."""

    keep: int
    segments: dict[int, LogSegment]
    rows: int = 0
    size: int = 0


class OutcomeCache:
    """Each model's newest outcomes, within ``max_bytes`` for all; 0: nothing is cached."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._models: dict[bytes, _Model] = {}
        self._at: dict[int, int] = {}
        self._first_ms: dict[int, int] = {}
        self._last_ms: dict[int, int] = {}
        self._begin_needed = False

    # --- which models ----------------------------------------------------------------------------------

    def keep(self, rows: Mapping[str, int]) -> None:
        """Set the models to keep and how many rows of each; others are dropped."""
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
                    self._begin_needed = True

    @property
    def begin_needed(self) -> bool:
        """Whether there are models whose older rows were never read: ``begin`` again, further back."""
        return self._begin_needed

    @property
    def followed(self) -> bool:
        """Whether any model's outcomes are to be cached."""
        return bool(self._models)

    def keeps(self, prefix: bytes) -> bool:
        return prefix in self._models

    def expected(self) -> int:
        """How many records the wanted rows take up, if all outcomes were of these models."""
        with self._lock:
            rows = sum(model.keep for model in self._models.values()) * SLACK
        return int(min(rows, self._max_bytes / (EXPECTED_BYTES + ROW_BYTES)))

    # --- the thread that follows outcomes --------------------------------------------------------------

    def begin(self, at: Mapping[int, int]) -> None:
        """Drop everything; what is added next begins at these offsets."""
        with self._lock:
            self._at, self._first_ms, self._last_ms = dict(at), {}, {}
            self._begin_needed = False
            for prefix, model in self._models.items():
                self._models[prefix] = _Model(model.keep, self._from_here())

    def forget(self) -> None:
        self.begin({})
        self._begin_needed = bool(self._models)

    def add(
        self, outcomes: Iterable[FollowedOutcome], seen_ms: Mapping[int, int], at: Mapping[int, int]
    ) -> None:
        """Add what was read next, in order per partition; what is cached already is skipped.

        ``seen_ms``: the append time of each partition's last record; ``at``: the reader's positions.
        """
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

    def of(self, model: str) -> CacheSnapshot:
        """The cached outcomes of a model, as of now."""
        with self._lock:
            known = self._models.get(model_prefix(model))
            if known is None:
                return CacheSnapshot()
            return CacheSnapshot(
                {
                    p: LogSegment(s.low, self._at[p], self._since(p, s), s.rows.copy(), s.unreadable.copy())
                    for p, s in known.segments.items()
                    if p in self._at
                }
            )

    # --- parts ------------------------------------------------------------------------------------------

    def _from_here(self) -> dict[int, LogSegment]:
        return {p: LogSegment(offset, offset, self._last_ms.get(p)) for p, offset in self._at.items()}

    def _since(self, partition: int, segment: LogSegment) -> int | None:
        return segment.since_ms if segment.since_ms is not None else self._first_ms.get(partition)

    def _add(self, model: _Model, found: FollowedOutcome) -> None:
        segment, key = model.segments[found.partition], found.found
        if isinstance(key, UnreadableOutcome):
            segment.unreadable.append(key)
        elif key.is_shadow:
            return
        else:
            row = (found.append_ms, found.offset, key.prediction_id, key.seq, key.is_row, found.value)
            segment.rows.append(row)
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
        """Drop what is older than the newest ``keep``; all of it if one millisecond holds more than that."""
        times = [row[APPEND_MS] for s in model.segments.values() for row in s.rows]
        moment = nth_newest(times, keep) if keep > 0 else 0
        if min(times, default=moment) >= moment:
            model.segments, model.rows, model.size = self._from_here(), 0, 0
            return
        model.rows = model.size = 0
        for segment in model.segments.values():
            dropped = bisect_left(segment.rows, moment, key=lambda row: row[APPEND_MS])
            if dropped:
                segment.low = segment.rows[dropped - 1][OFFSET] + 1
                segment.since_ms = max(row[APPEND_MS] for row in segment.rows[:dropped])
                del segment.rows[:dropped]
            segment.unreadable = [one for one in segment.unreadable if one.record.offset >= segment.low]
            model.rows += len(segment.rows)
            model.size += sum(len(row[VALUE]) for row in segment.rows) + ROW_BYTES * len(segment.rows)
            model.size += sum(len(one.record.value or b"") + ROW_BYTES for one in segment.unreadable)
