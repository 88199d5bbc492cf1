"""The window of a run: which outcomes teach and judge, decided by the log and never by when it was polled.

A *row* is an outcome with revision 0 whose role is not shadow; it counts as a *label* when its label can be
learned from. Rows of all partitions are ordered by (append time, partition, offset).

- **Start.** With an estimated change: the change's ``seq`` in each partition. Without: after the rows that
  the champion was taught or judged by, but at most the newest ``max_rows`` before the trigger.
- **Edge.** The later of the trigger's append time (all that was known then is used) and the row that brings
  the labels after the start to the number needed. Where ``max_wait`` after the run's acceptance comes first,
  it is the edge: by append time, or, in the event clock, at the first label whose event time has reached it.
- **Cut.** Per partition the first offset beyond the edge. It is recorded with the move to ``training``; from
  there on the window is what lies below it, so a second attempt reads the same rows.
- **Corrections** below the cut replace the labels of rows in the window; those of other rows are left out.
- **Older rows**, from before the start, are the newest ones there.

An edge counts only once every partition was read past it, transactions that were open then included: a row
that became visible later could otherwise still move it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..schemas.decisions import Change
from ..schemas.spec import ModelSpec
from .outcome_heads import head_of, model_prefix

Clock = Literal["append", "event"]

MIN_LABELS = 100  # below this no paired test could show a gain that matters
LAST = 2**62  # past every partition and every offset


class Edge(NamedTuple):
    """A place in the order of all rows: everything up to and including it is in the window."""

    append_ms: int
    partition: int = LAST
    offset: int = LAST

    def first_time_after(self, partition: int) -> int:
        """The earliest append time that is beyond the edge in another ``partition`` than the edge's own."""
        return self.append_ms + 1 if partition < self.partition else self.append_ms


@dataclass(frozen=True, slots=True)
class Start:
    """Where the window begins in one partition: rows at or past both are after the change."""

    offset: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Per partition the first offset not in the window; how many labels that gave, and the time then.

    ``starts``: where the count began, so that it need not be looked for again.
    """

    ends: Mapping[int, int]
    labels: int
    now_ms: int
    starts: Mapping[int, Start] | None = None


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Where a window begins. ``taught_ends``: offsets below which rows taught the champion, if known."""

    model: str
    change: Change | None
    taught_ends: Mapping[int, int] | None
    trigger_append_ms: int
    max_rows: int
    old_rows: int


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """A waiting run's question: where is the cut? ``manifest_sha256``: the champion's, for its classes."""

    run_id: str
    plan: WindowPlan
    spec: ModelSpec
    needed: int
    deadline_ms: int
    accepted_ms: int
    manifest_sha256: str | None


class LabelCount:
    """Finds a waiting run's edge from its labels, in whatever order the partitions come.

    Keeps the ``needed`` first labels' places and no row: memory is bounded by what the run waits for.
    """

    def __init__(
        self, *, needed: int, trigger_append_ms: int, deadline_ms: int, accepted_ms: int, clock: Clock
    ) -> None:
        self._needed = needed
        self._reach = Edge(trigger_append_ms)
        self._deadline_ms = deadline_ms
        self._accepted_ms = accepted_ms
        self._clock = clock
        self._first: list[tuple[int, int, int, int]] = []  # a heap with the last of them on top: negated
        self._overdue: Edge | None = None  # event clock: the first label at or past the deadline
        self._in_reach = 0
        self._event_in_reach = 0
        self.labels = 0

    def add(self, place: Edge, event_ms: int) -> None:
        """One label after the start. Each is added once."""
        self.labels += 1
        entry = (-place.append_ms, -place.partition, -place.offset, event_ms)
        if len(self._first) < self._needed:
            heapq.heappush(self._first, entry)
        else:
            heapq.heappushpop(self._first, entry)
        if place <= self._reach:
            self._in_reach += 1
            self._event_in_reach = max(self._event_in_reach, event_ms)
        if event_ms >= self._deadline_ms and (self._overdue is None or place < self._overdue):
            self._overdue = place

    def edge(self, now_ms: int) -> Edge | None:
        """The edge as far as is known; None while the run must wait. ``now_ms`` is for the append clock."""
        enough = self._enough()
        if self._clock == "event":
            overdue = self._overdue
        else:
            latest = max(now_ms, enough.append_ms) if enough is not None else now_ms
            overdue = Edge(self._deadline_ms) if latest > self._deadline_ms else None
        if enough is not None and (overdue is None or enough <= overdue):
            return max(enough, self._reach)
        return None if overdue is None else max(overdue, self._reach)

    def cut_at(self, edge: Edge, ends: Mapping[int, int], starts: Mapping[int, Start] | None = None) -> Cut:
        """The cut once the edge is final; ``ends``: each partition's first offset beyond it."""
        if edge == self._reach:
            labels, event_ms = self._in_reach, self._event_in_reach
        else:
            times = [entry[3] for entry in self._first if (-entry[0], -entry[1], -entry[2]) <= edge]
            labels, event_ms = len(times), max(times, default=0)
        known_ms = event_ms if self._clock == "event" else edge.append_ms
        return Cut(dict(ends), labels, max(self._accepted_ms, known_ms), starts)

    def _enough(self) -> Edge | None:
        if len(self._first) < self._needed:
            return None
        append_ms, partition, offset, _ = self._first[0]
        return Edge(-append_ms, -partition, -offset)


class NewestRows:
    """The newest ``max_rows`` rows of one side of the change, each with its corrections, as raw bytes.

    While it is filled it may hold twice as many, so that it must be sorted only now and then.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._places: list[tuple[Edge, str]] = []
        self._values: dict[str, tuple[int, list[bytes]]] = {}

    def __len__(self) -> int:
        return min(len(self._places), self._max_rows)

    def add_row(self, place: Edge, prediction_id: str, value: bytes) -> None:
        """Rows may come in any order of partitions."""
        self._values[prediction_id] = (place.partition, [value])
        self._places.append((place, prediction_id))
        if len(self._places) > 2 * self._max_rows:
            self.shrink(self._max_rows)

    def add_again(self, prediction_id: str, value: bytes) -> bool:
        """A correction, or another version's answer to the same request; False when there is no such row."""
        known = self._values.get(prediction_id)
        if known is None:
            return False
        known[1].append(value)
        return True

    def shrink(self, max_rows: int) -> None:
        """Drop the oldest beyond ``max_rows``."""
        self._max_rows = min(max_rows, self._max_rows)
        self._places.sort()
        surplus = len(self._places) - self._max_rows
        if surplus > 0:
            for _, oldest in self._places[:surplus]:
                del self._values[oldest]
            del self._places[:surplus]

    def values(self) -> Iterator[tuple[int, bytes]]:
        """(partition, outcome): rows oldest first, each followed by its corrections."""
        self.shrink(self._max_rows)
        for _, prediction_id in self._places:
            partition, values = self._values[prediction_id]
            for value in values:
                yield partition, value


class WindowRows:
    """Both sides of the change, filled in one pass from the older rows' beginning to the cut."""

    def __init__(self, starts: Mapping[int, Start], plan: WindowPlan) -> None:
        self._starts = starts
        self._max_rows = plan.max_rows
        self._prefix_length = len(model_prefix(plan.model))
        self.after = NewestRows(plan.max_rows)
        self.before = NewestRows(plan.old_rows)

    def add(self, place: Edge, value: bytes) -> None:
        """Any outcome of the model, each partition's in order. Raises DecodeError for bytes that are none."""
        head = head_of(value, self._prefix_length)
        if head.is_shadow:
            return
        known = self.after.add_again(head.prediction_id, value)
        if known or self.before.add_again(head.prediction_id, value) or not head.is_row:
            return
        start = self._starts[place.partition]
        is_after = place.offset >= start.offset and head.seq >= start.seq
        (self.after if is_after else self.before).add_row(place, head.prediction_id, value)

    def finish(self) -> None:
        """The rows after the change come first: older ones get the room that is left."""
        self.before.shrink(max(0, self._max_rows - len(self.after)))
