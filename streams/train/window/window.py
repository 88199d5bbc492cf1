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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ....schemas.decisions import Change
from ....schemas.spec.model import ModelSpec
from .cache import Kept
from .prefix import head_of, model_prefix

Clock = Literal["append", "event"]
_Place = tuple[int, int, int, str]  # append time, partition, offset, prediction_id

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
        self._places: list[_Place] = []
        self._values: dict[str, bytes] = {}
        self._again: dict[str, list[bytes]] = {}

    def __len__(self) -> int:
        return min(len(self._places), self._max_rows)

    def add_row(self, place: Edge, prediction_id: str, value: bytes) -> None:
        """Rows may come in any order of partitions."""
        self.add_rows([(place.append_ms, place.partition, place.offset, prediction_id)], [value])

    def add_rows(self, places: list[_Place], values: list[bytes]) -> None:
        """Rows with ids that are not here yet."""
        self._values.update(zip((place[3] for place in places), values, strict=True))
        self._places += places
        if len(self._places) > 2 * self._max_rows:
            self.shrink(self._max_rows)

    def knows_any(self, prediction_ids: set[str]) -> bool:
        """Whether rows of these are here."""
        return not self._values.keys().isdisjoint(prediction_ids)

    def add_again(self, prediction_id: str, value: bytes) -> bool:
        """A correction, or another version's answer to the same request; False when there is no such row."""
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
    """Both sides of the change, filled in one pass from the older rows' beginning to the cut."""

    def __init__(self, starts: Mapping[int, Start], plan: WindowPlan) -> None:
        self._starts = starts
        self._max_rows = plan.max_rows
        self._prefix_length = len(model_prefix(plan.model))
        self.after = NewestRows(plan.max_rows)
        self.before = NewestRows(plan.old_rows)
        self.first_seqs: dict[int, int] = {}
        """Per partition that of the first row after the change."""

    def add(self, place: Edge, value: bytes) -> None:
        """Any outcome of the model, each partition's in order. Raises DecodeError for bytes that are none."""
        head = head_of(value, self._prefix_length)
        if not head.is_shadow:
            self._add(place, head.prediction_id, head.seq, head.is_row, value)

    def add_kept(self, partition: int, kept: list[Kept]) -> None:
        """Those of one partition that were looked at before, in order."""
        ids = {one[2] for one in kept}
        unseen = not self.after.knows_any(ids) and not self.before.knows_any(ids)
        if not (unseen and len(ids) == len(kept) and all(one[4] for one in kept)):
            for append_ms, offset, prediction_id, seq, is_row, value in kept:
                self._add(Edge(append_ms, partition, offset), prediction_id, seq, is_row, value)
            return
        start = self._starts[partition]
        first, first_seq = start.offset, start.seq
        for side, of_side in (
            (self.before, [one for one in kept if one[1] < first or one[3] < first_seq]),
            (self.after, [one for one in kept if one[1] >= first and one[3] >= first_seq]),
        ):
            side.add_rows(
                [(one[0], partition, one[1], one[2]) for one in of_side], [one[5] for one in of_side]
            )

    def _add(self, place: Edge, prediction_id: str, seq: int, is_row: bool, value: bytes) -> None:
        known = self.after.add_again(prediction_id, value)
        if known or self.before.add_again(prediction_id, value) or not is_row:
            return
        start = self._starts[place.partition]
        is_after = place.offset >= start.offset and seq >= start.seq
        (self.after if is_after else self.before).add_row(place, prediction_id, value)
        if is_after:
            self._began(place.partition, seq)

    def _began(self, partition: int, seq: int) -> None:
        self.first_seqs[partition] = min(seq, self.first_seqs.get(partition, seq))

    def finish(self) -> None:
        """The rows after the change come first: older ones get the room that is left."""
        self.before.shrink(max(0, self._max_rows - len(self.after)))
