"""Finding and reading a run's window in the outcomes topic, unassigned to any group, with bounded memory.

Everything here can be repeated: the same log and the same cut give the same rows, whoever reads and whenever.
On failure: nothing was written anywhere; the run reads again, or fails with the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Message

from ....schemas.errors import DecodeError
from ....schemas.topics import OUTCOMES
from ...kafka.ranges import LogOffsets, LogRanges
from ...kafka.reader import Record, as_record
from ..step import Output, dead_letter
from .cache import OutcomeCache, Warm
from .prefix import head_of, model_prefix
from .window import Edge, Start, WindowPlan, WindowRows

log = logging.getLogger(__name__)

# An outcome may be stamped by another broker than its inputs were; one broker's clock is at most stepped.
CLOCK_SKEW_MS = 5_000
CLOCK_STEP_MS = 500
FIRST_STEP_MS = 1_000
GROWTH = 4
BISECTIONS = 6
MAX_DEAD_LETTERS = 100  # per run; what lies there lies there for the next one too


@dataclass(slots=True)
class Window:
    """The rows of a run, and what among the model's outcomes was none."""

    rows: WindowRows
    dead_letters: list[Output] = field(default_factory=list[Output])
    unreadable: int = 0

    def add(self, message: Message) -> None:
        """One of the model's, as it was read."""
        place = Edge(message.timestamp()[1], message.partition() or 0, message.offset() or 0)
        try:
            self.rows.add(place, _bytes(message))
        except DecodeError as error:
            self.put_aside(as_record(message), error.reason)

    def put_aside(self, record: Record, reason: str) -> None:
        """One that is no outcome."""
        self.unreadable += 1
        if self.unreadable <= MAX_DEAD_LETTERS:
            self.dead_letters.append(dead_letter(record, "train", reason))


class OutcomeReader:
    """Reads outcomes for one thread."""

    def __init__(
        self,
        offsets: LogOffsets,
        ranges: LogRanges,
        cancel: threading.Event | None = None,
        cache: OutcomeCache | None = None,
    ) -> None:
        """``cancel`` ends what is under way with Cancelled. ``cache``: what need not be read from the log."""
        self._offsets = offsets
        self._ranges = ranges
        self._cancel = cancel
        self._cache = cache
        self._partitions = offsets.partitions(OUTCOMES)
        self._grace_ms = CLOCK_SKEW_MS if offsets.brokers(OUTCOMES) > 1 else CLOCK_STEP_MS

    def starts(self, plan: WindowPlan) -> dict[int, Start]:
        """Where the window begins in each partition."""
        if plan.change is not None:
            known = {int(partition): place for partition, place in plan.change.partitions.items()}
            # A partition the estimate does not name had no outcome of this model when it was made.
            earliest = min((place.append_ms for place in known.values()), default=plan.trigger_append_ms)
            times = {p: known[p].append_ms if p in known else earliest for p in self._partitions}
            found = self._offsets.at(OUTCOMES, {p: time_ms - self._grace_ms for p, time_ms in times.items()})
            return {p: Start(found[p], known[p].seq if p in known else 0) for p in self._partitions}
        begins = self._offsets.begins(OUTCOMES, self._partitions)
        floor = {p: max(begins[p], (plan.taught_ends or {}).get(p, 0)) for p in self._partitions}
        until = self._offsets.at(OUTCOMES, dict.fromkeys(self._partitions, plan.trigger_append_ms + 1))
        reached = self._reach_back(plan, until, floor, plan.max_rows, plan.trigger_append_ms + 1)
        return {p: Start(offset) for p, offset in reached.items()}

    def ends_after(self, edge: Edge) -> dict[int, int]:
        """Per partition the first offset beyond an edge that is final."""
        times = {p: edge.first_time_after(p) for p in self._partitions if p != edge.partition}
        ends = self._offsets.at(OUTCOMES, times)
        return ends | ({edge.partition: edge.offset + 1} if edge.partition in self._partitions else {})

    def known_ends(self) -> dict[int, int]:
        """Where the topic ends now, open transactions included."""
        return self._offsets.ends(OUTCOMES, self._partitions)

    def window(
        self, plan: WindowPlan, ends: Mapping[int, int], starts: Mapping[int, Start] | None = None
    ) -> Window:
        """The rows of both sides of the change, below ``ends``. ``starts``: where they are known already."""
        starts = starts or self.starts(plan)
        warm = self._warm(plan.model)
        before = self._older(plan, starts)
        window = Window(WindowRows(starts, plan))
        ranges = {p: (before[p], ends.get(p, 0)) for p in self._partitions}
        self._fill(window, plan.model, ranges, warm)
        self._announce_gaps(plan, starts, window)
        window.rows.finish()
        return window

    def _announce_gaps(self, plan: WindowPlan, starts: Mapping[int, Start], window: Window) -> None:
        """Outcomes after the change that the log no longer holds: retention was faster than the run."""
        if plan.change is None:
            return
        begins = self._offsets.begins(OUTCOMES, self._partitions)
        for p, first in window.rows.first_seqs.items():
            known = plan.change.partitions.get(str(p))
            if known is None or first <= known.seq or not 0 < starts[p].offset <= begins[p]:
                continue
            reason = (
                f"outcomes of {plan.model} with seq {known.seq} to {first - 1} are no longer in the log: the "
                "run did without them, since retention of outcomes is shorter than its window"
            )
            log.error("outcomes[%d]: %s", p, reason)
            window.put_aside(
                Record(OUTCOMES.name, p, begins[p] - 1, plan.trigger_append_ms, None, None), reason
            )

    def _fill(self, window: Window, model: str, ranges: Mapping[int, tuple[int, int]], warm: Warm) -> None:
        """From the cache what is there, from the log the rest; each partition in order."""
        below, above = dict[int, tuple[int, int]](), dict[int, tuple[int, int]]()
        for p, (start, end) in ranges.items():
            low, high = warm.span(p)
            below[p], above[p] = (start, min(end, low)), (max(start, high), end)
        for message in self._of_model(model, below):
            window.add(message)
        for p, (start, end) in ranges.items():
            window.rows.add_kept(p, warm.between(p, start, end))
            for record, reason in warm.unreadable(p, start, end):
                window.put_aside(record, reason)
        for message in self._of_model(model, above):
            window.add(message)

    def _warm(self, model: str) -> Warm:
        return Warm({}) if self._cache is None else self._cache.of(model)

    def _older(self, plan: WindowPlan, starts: Mapping[int, Start]) -> dict[int, int]:
        """Where to begin, so that the older rows wanted lie before the starts."""
        begins = self._offsets.begins(OUTCOMES, self._partitions)
        until = {p: max(starts[p].offset, begins[p]) for p in self._partitions}
        if plan.change is None and plan.taught_ends is None:
            return until  # the newest rows there are: there is no room for more, or there are no more
        if plan.change is not None and plan.change.partitions:
            edge_ms = min(place.append_ms for place in plan.change.partitions.values()) - self._grace_ms
        else:
            edge_ms = plan.trigger_append_ms + 1
        return self._reach_back(plan, until, begins, plan.old_rows, edge_ms)

    def _reach_back(
        self,
        plan: WindowPlan,
        until: Mapping[int, int],
        floor: Mapping[int, int],
        wanted: int,
        edge_ms: int,
    ) -> dict[int, int]:
        """Offsets with the newest ``wanted`` rows between them and ``until``, all those of the oldest one's
        millisecond included; ``floor`` where there are fewer.

        Goes back in steps of time, so that all partitions are read back to the same moment and the newest
        rows among them are the newest of all; each step holds about as many records as rows are lacking.
        """
        known = self._warm(plan.model).reach_back(until, floor, wanted)
        if known is not None:
            return known
        reached = {p: max(offset, floor[p]) for p, offset in until.items()}
        found: list[tuple[int, int, int]] = []
        read, span_ms = 0, FIRST_STEP_MS
        while len(found) < wanted and any(reached[p] > floor[p] for p in reached):
            share = len(found) / read if found else 1.0
            span_ms, stepped = self._step(reached, floor, edge_ms, span_ms, (wanted - len(found)) / share)
            ranges = {p: (stepped[p], reached[p]) for p in reached}
            found += self._rows(plan, ranges)
            read += sum(end - start for start, end in ranges.values())
            reached = stepped
        if len(found) <= wanted or not wanted:
            return reached
        # Steps overshoot; what is told is the same as from the cache.
        found.sort(reverse=True)
        moment = found[wanted - 1][0]
        exact = {p: max(offset, floor[p]) for p, offset in until.items()}
        for append_ms, p, offset in found:
            if append_ms >= moment:
                exact[p] = min(exact[p], offset)
        return exact

    def _rows(self, plan: WindowPlan, ranges: Mapping[int, tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Append time, partition, offset of each row there."""
        return [
            (message.timestamp()[1], message.partition() or 0, message.offset() or 0)
            for message in self._of_model(plan.model, ranges)
            if self._is_row(plan, message)
        ]

    def _step(
        self,
        reached: Mapping[int, int],
        floor: Mapping[int, int],
        edge_ms: int,
        span_ms: int,
        records: float,
    ) -> tuple[int, dict[int, int]]:
        """How far back in time, and so from which offsets on, at least ``records`` more lie."""

        def back(span_ms: int) -> dict[int, int]:
            if span_ms >= edge_ms:
                return dict(floor)
            at = self._offsets.at(OUTCOMES, dict.fromkeys(reached, edge_ms - span_ms), ends=reached)
            return {p: max(floor[p], min(at[p], reached[p])) for p in reached}

        def gained(stepped: Mapping[int, int]) -> int:
            return sum(reached[p] - stepped[p] for p in reached)

        short_ms, stepped = span_ms, back(span_ms)
        while gained(stepped) < records and any(stepped[p] > floor[p] for p in stepped):
            short_ms, span_ms = span_ms, span_ms * GROWTH
            stepped = back(span_ms)
        for _ in range(BISECTIONS):
            middle_ms = (short_ms + span_ms) // 2
            if gained(stepped) <= 2 * records or middle_ms in (short_ms, span_ms):
                break
            closer = back(middle_ms)
            if gained(closer) < records:
                short_ms = middle_ms
            else:
                span_ms, stepped = middle_ms, closer
        return span_ms, stepped

    def _of_model(self, model: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Message]:
        return self._ranges.read(OUTCOMES, ranges, self._cancel, prefix=model_prefix(model))

    def _is_row(self, plan: WindowPlan, message: Message) -> bool:
        try:
            return head_of(_bytes(message), len(model_prefix(plan.model))).is_row
        except DecodeError:
            return False  # it is reported when the window is read


def _bytes(message: Message) -> bytes:
    value = message.value()
    return value if isinstance(value, bytes) else b""
