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
_Outcome = tuple[int, int, int, str, bool, bytes]  # append time, partition, offset, id, is row, value

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
    """The newest ``max_rows`` requests of one side of the change, with answers and corrections, as raw bytes.

    What is kept does not depend on the order of partitions: the newest answers, back to where one more
    request would be too many, and the corrections that follow them. While being filled it may hold twice as
    many, so that it is not sorted for every row: ``shrink`` before the rest is asked for.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._outcomes: list[_Outcome] = []
        self._ids: set[str] = set()
        self._room = 2 * max_rows

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, prediction_id: str) -> bool:
        return prediction_id in self._ids

    def add(self, partition: int, outcomes: list[CachedOutcome]) -> None:
        """Add answers, and corrections of requests that are here; each partition's in order."""
        if not outcomes:
            return
        self._outcomes += [
            (row[APPEND_MS], partition, row[OFFSET], row[PREDICTION_ID], row[IS_ROW], row[VALUE])
            for row in outcomes
        ]
        self._ids.update([row[PREDICTION_ID] for row in outcomes])
        if len(self._outcomes) > self._room:
            self.shrink(self._max_rows)

    def shrink(self, max_rows: int) -> None:
        """Drop the oldest beyond ``max_rows``."""
        self._max_rows = min(max_rows, self._max_rows)
        self._outcomes.sort()
        newest, first = set[str](), len(self._outcomes)
        for _, _, _, prediction_id, is_row, _ in reversed(self._outcomes):
            if is_row and prediction_id not in newest:
                if len(newest) == self._max_rows:
                    break
                newest.add(prediction_id)
            first -= 1
        kept, self._outcomes, self._ids = self._outcomes[first:], [], set()
        for outcome in kept:
            if outcome[4]:
                self._ids.add(outcome[3])
            if outcome[3] in self._ids:  # a correction's answer may have been dropped
                self._outcomes.append(outcome)
        self._room = 2 * max(self._max_rows, len(self._outcomes))

    def leave_out(self, others: NewestRows) -> None:
        """Drop the requests that are among others too."""
        self._outcomes = [outcome for outcome in self._outcomes if outcome[3] not in others]
        self._ids -= others._ids

    def values(self) -> list[tuple[int, bytes]]:
        """(partition, outcome): rows oldest first, each followed by other answers and corrections."""
        rows: dict[str, list[tuple[int, bytes]]] = {}
        for _, partition, _, prediction_id, _, value in self._outcomes:
            rows.setdefault(prediction_id, []).append((partition, value))
        return [value for values in rows.values() for value in values]


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
            row = (place.append_ms, place.offset, key.prediction_id, key.seq, key.is_row, value)
            self.add_cached(place.partition, [row])

    def add_cached(self, partition: int, outcomes: list[CachedOutcome]) -> None:
        """Add those of one partition that were read before, in order."""
        start = self._starts[partition]
        first, first_seq = start.offset, start.seq
        rows = [row for row in outcomes if row[IS_ROW]]
        after = [row for row in rows if row[OFFSET] >= first and row[SEQ] >= first_seq]
        self.after.add(partition, after)
        self.before.add(partition, [row for row in rows if row[OFFSET] < first or row[SEQ] < first_seq])
        if len(rows) < len(outcomes):
            for side in (self.after, self.before):
                side.add(partition, [o for o in outcomes if not o[IS_ROW] and o[PREDICTION_ID] in side])
        if after:
            seq = min(row[SEQ] for row in after)
            self.first_seqs[partition] = min(seq, self.first_seqs.get(partition, seq))

    def finish(self) -> None:
        """Drop older rows so that both sides have ``max_rows`` at most: those after the change come first.

        A request that was answered on both sides is after the change.
        """
        self.after.shrink(self._max_rows)
        self.before.shrink(max(0, self._max_rows - len(self.after)))
        self.before.leave_out(self.after)
