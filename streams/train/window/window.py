"""The window of a run: which outcomes it trains and evaluates on.

The log alone decides this, never the moment at which it was polled.

A *row* is an outcome with revision 0 whose role is not shadow; it counts as a *label* when its label can be
trained on. Rows of all partitions are ordered by (append time, partition, offset).

- **Window start.** With an estimated change: the change's ``seq`` in each partition. Without: after the rows
  that the champion was trained or evaluated on, but at most the newest ``max_rows`` before the trigger.
- **Window end.** The later of the trigger's append time (all that was known then is used) and the row that
  brings the labels after the start to the number needed. If ``max_wait`` after the run's acceptance comes
  first, that is the end: by append time or, in the event clock, at the first label with such an event time.
- **Frozen window.** Per partition the first offset beyond the end. It is recorded with the move to
  ``training``; from then on the window is what lies below it, so a second attempt reads the same rows.
- **Corrections** in the frozen window replace the labels of its rows; those of other rows are left out.
- **Older rows**, from before the start, are the newest ones there.

An end counts only once every partition was read past it, transactions that were open then included: otherwise
a row that becomes visible later could still move it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ....schemas.decisions import Change
from ....schemas.spec.model import ModelSpec
from .cache import APPEND_MS, IS_ROW, OFFSET, PREDICTION_ID, SEQ, VALUE, CachedOutcome
from .prefix import model_prefix, outcome_key

Clock = Literal["append", "event"]
_Place = tuple[int, int, int, str]  # append time, partition, offset, prediction_id

MIN_LABELS = 100  # below this no paired test could show a gain that matters
LAST = 2**62  # past every partition and every offset


class LogPlace(NamedTuple):
    """A place in the order of all rows. As a window's end it is the last place in the window."""

    append_ms: int
    partition: int = LAST
    offset: int = LAST

    def first_time_after(self, partition: int) -> int:
        """The earliest append time beyond this place in another ``partition`` than its own."""
        return self.append_ms + 1 if partition < self.partition else self.append_ms


@dataclass(frozen=True, slots=True)
class WindowStart:
    """Where the window begins in one partition: rows at or past both are after the change."""

    offset: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class FrozenWindow:
    """Per partition the first offset not in the window; the labels in it, and the time at its end.

    ``starts``: where the count began, so that it need not be found again.
    """

    ends: Mapping[int, int]
    labels: int
    now_ms: int
    starts: Mapping[int, WindowStart] | None = None


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What decides where a window begins. ``used_ends``: offsets below which the champion has used rows."""

    model: str
    change: Change | None
    used_ends: Mapping[int, int] | None
    trigger_append_ms: int
    max_rows: int
    old_rows: int


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """A waiting run whose window is to be found; all that its count depends on.

    ``spec``: the model's task and classes. ``manifest_sha256``: the champion's, for its classes.
    """

    run_id: str
    plan: WindowPlan
    spec: ModelSpec
    needed: int
    deadline_ms: int
    accepted_ms: int
    manifest_sha256: str | None


class _Negated(NamedTuple):
    """A label's place with its numbers negated, so that the latest is on top of a heap."""

    append_ms: int
    partition: int
    offset: int
    event_ms: int

    @property
    def place(self) -> LogPlace:
        return LogPlace(-self.append_ms, -self.partition, -self.offset)


class LabelCount:
    """Finds a waiting run's window end from its labels, in whatever order the partitions come.

    It holds the places of the first ``needed`` labels and no rows, so its memory is bounded.
    """

    def __init__(self, request: WaitRequest, clock: Clock) -> None:
        self._needed = request.needed
        self._reach = LogPlace(request.plan.trigger_append_ms)
        self._deadline_ms = request.deadline_ms
        self._accepted_ms = request.accepted_ms
        self._clock = clock
        self._first: list[_Negated] = []  # a heap with the latest of them on top
        self._overdue: LogPlace | None = None  # event clock: the first label at or past the deadline
        self._in_reach = 0
        self._event_in_reach = 0
        self.labels = 0

    def add(self, place: LogPlace, event_ms: int) -> None:
        """Add one label after the start. Each is added once."""
        self.labels += 1
        entry = _Negated(-place.append_ms, -place.partition, -place.offset, event_ms)
        if len(self._first) < self._needed:
            heapq.heappush(self._first, entry)
        else:
            heapq.heappushpop(self._first, entry)
        if place <= self._reach:
            self._in_reach += 1
            self._event_in_reach = max(self._event_in_reach, event_ms)
        if event_ms >= self._deadline_ms and (self._overdue is None or place < self._overdue):
            self._overdue = place

    def window_end(self, now_ms: int) -> LogPlace | None:
        """The window's end so far; None while the run must wait. ``now_ms``: for the append clock."""
        enough = self._first[0].place if len(self._first) >= self._needed else None
        if self._clock == "event":
            overdue = self._overdue
        else:
            latest = max(now_ms, enough.append_ms) if enough is not None else now_ms
            overdue = LogPlace(self._deadline_ms) if latest > self._deadline_ms else None
        if enough is not None and (overdue is None or enough <= overdue):
            return max(enough, self._reach)
        return None if overdue is None else max(overdue, self._reach)

    def freeze(
        self, window_end: LogPlace, ends: Mapping[int, int], starts: Mapping[int, WindowStart] | None = None
    ) -> FrozenWindow:
        """The window once its end is final; ``ends``: each partition's first offset beyond it."""
        if window_end == self._reach:
            labels, event_ms = self._in_reach, self._event_in_reach
        else:
            times = [one.event_ms for one in self._first if one.place <= window_end]
            labels, event_ms = len(times), max(times, default=0)
        known_ms = event_ms if self._clock == "event" else window_end.append_ms
        return FrozenWindow(dict(ends), labels, max(self._accepted_ms, known_ms), starts)


class NewestRows:
    """The newest ``max_rows`` rows of one side of the change, each with its corrections, as raw bytes.

    While being filled it may hold twice as many, so that it is not sorted for every row.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._places: list[_Place] = []
        self._values: dict[str, bytes] = {}
        self._again: dict[str, list[bytes]] = {}

    def __len__(self) -> int:
        return min(len(self._places), self._max_rows)

    def add_rows(self, places: list[_Place], values: list[bytes]) -> None:
        """Add rows whose ids are not here yet; partitions may come in any order."""
        self._values.update(zip((place[3] for place in places), values, strict=True))
        self._places += places
        if len(self._places) > 2 * self._max_rows:
            self.shrink(self._max_rows)

    def knows_any(self, prediction_ids: set[str]) -> bool:
        """Whether any of these rows is here."""
        return not self._values.keys().isdisjoint(prediction_ids)

    def add_again(self, prediction_id: str, value: bytes) -> bool:
        """Add a correction, or another version's answer to the same request. False: no such row."""
        if prediction_id not in self._values:
            return False
        self._again.setdefault(prediction_id, []).append(value)
        return True

    def shrink(self, max_rows: int) -> None:
        """Drop the oldest beyond ``max_rows``."""
        self._max_rows = min(max_rows, self._max_rows)
        self._places.sort()
        surplus = len(self._places) - self._max_rows
        if surplus > 0:
            for _, _, _, oldest in self._places[:surplus]:
                del self._values[oldest]
                self._again.pop(oldest, None)
            del self._places[:surplus]

    def values(self) -> list[tuple[int, bytes]]:
        """(partition, outcome): rows oldest first, each followed by its corrections."""
        self.shrink(self._max_rows)
        if not self._again:
            return [(partition, self._values[row]) for _, partition, _, row in self._places]
        return [
            (partition, value)
            for _, partition, _, row in self._places
            for value in (self._values[row], *self._again.get(row, ()))
        ]


class WindowRows:
    """Rows on both sides of the change, filled in one pass from the oldest to the end of the window."""

    def __init__(self, starts: Mapping[int, WindowStart], plan: WindowPlan) -> None:
        self._starts = starts
        self._max_rows = plan.max_rows
        self._prefix_length = len(model_prefix(plan.model))
        self.after = NewestRows(plan.max_rows)
        self.before = NewestRows(plan.old_rows)
        self.first_seqs: dict[int, int] = {}
        """Per partition, the seq of the first row after the change."""

    def add(self, place: LogPlace, value: bytes) -> None:
        """Add any outcome of the model, each partition's in order. Raises DecodeError for other bytes."""
        key = outcome_key(value, self._prefix_length)
        if not key.is_shadow:
            self._add(place, key.prediction_id, key.seq, key.is_row, value)

    def add_cached(self, partition: int, rows: list[CachedOutcome]) -> None:
        """Add those of one partition that were read before, in order."""
        ids = {row[PREDICTION_ID] for row in rows}
        unseen = not self.after.knows_any(ids) and not self.before.knows_any(ids)
        if not (unseen and len(ids) == len(rows) and all(row[IS_ROW] for row in rows)):
            for append_ms, offset, prediction_id, seq, is_row, value in rows:
                self._add(LogPlace(append_ms, partition, offset), prediction_id, seq, is_row, value)
            return
        start = self._starts[partition]
        first, first_seq = start.offset, start.seq
        for side, of_side in (
            (self.before, [row for row in rows if row[OFFSET] < first or row[SEQ] < first_seq]),
            (self.after, [row for row in rows if row[OFFSET] >= first and row[SEQ] >= first_seq]),
        ):
            side.add_rows(
                [(row[APPEND_MS], partition, row[OFFSET], row[PREDICTION_ID]) for row in of_side],
                [row[VALUE] for row in of_side],
            )

    def _add(self, place: LogPlace, prediction_id: str, seq: int, is_row: bool, value: bytes) -> None:
        known = self.after.add_again(prediction_id, value)
        if known or self.before.add_again(prediction_id, value) or not is_row:
            return
        start = self._starts[place.partition]
        is_after = place.offset >= start.offset and seq >= start.seq
        row = (place.append_ms, place.partition, place.offset, prediction_id)
        (self.after if is_after else self.before).add_rows([row], [value])
        if is_after:
            self.first_seqs[place.partition] = min(seq, self.first_seqs.get(place.partition, seq))

    def finish(self) -> None:
        """Drop older rows so that both sides have ``max_rows`` at most: those after the change come first."""
        self.before.shrink(max(0, self._max_rows - len(self.after)))
