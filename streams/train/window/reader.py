"""Find and read a run's window in the outcomes topic, without a consumer group, with bounded memory.

Everything here can be repeated: the same log and the same frozen window give the same rows at any time.
On failure: nothing was written; the run reads again, or fails with the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Message

from ....schemas.errors import DecodeError
from ....schemas.topics import OUTCOMES
from ...kafka.offsets import LogOffsets
from ...kafka.ranges import LogRanges
from ...kafka.reader import as_record
from ...kafka.record import Record
from ..step import Output, dead_letter_of
from .cache import CacheSnapshot, OutcomeCache, nth_newest
from .prefix import model_prefix, outcome_key
from .window import LogPlace, WindowPlan, WindowRows, WindowStart

log = logging.getLogger(__name__)

# An outcome may be stamped by another broker than its inputs were; one broker's clock is at most stepped.
CLOCK_SKEW_MS = 5_000
CLOCK_STEP_MS = 500
FIRST_STEP_MS = 1_000
GROWTH = 4
BISECTIONS = 6
MAX_DEAD_LETTERS = 100  # per run; the next run finds the same records again


@dataclass(slots=True)
class RunWindow:
    """The rows of a run, and the dead letters of records that are not outcomes."""

    rows: WindowRows
    dead_letters: list[Output] = field(default_factory=list[Output])
    unreadable: int = 0

    def add(self, message: Message) -> None:
        """Add one record of the model."""
        try:
            self.rows.add(_place_of(message), _bytes(message))
        except DecodeError as error:
            self.set_aside(as_record(message), error.reason)

    def set_aside(self, record: Record, reason: str) -> None:
        """Note one that is not an outcome."""
        self.unreadable += 1
        if self.unreadable <= MAX_DEAD_LETTERS:
            self.dead_letters.append(dead_letter_of(record, "train", reason))


class OutcomeReader:
    """Reads outcomes for one thread."""

    def __init__(
        self,
        offsets: LogOffsets,
        ranges: LogRanges,
        cancel: threading.Event | None = None,
        cache: OutcomeCache | None = None,
    ) -> None:
        """``cancel`` ends a running read with Cancelled. ``cache``: what need not be read from the log."""
        self._offsets = offsets
        self._ranges = ranges
        self._cancel = cancel
        self._cache = cache or OutcomeCache(0)
        self._partitions = offsets.partitions(OUTCOMES)
        self._grace_ms = CLOCK_SKEW_MS if offsets.brokers(OUTCOMES) > 1 else CLOCK_STEP_MS

    def starts(self, plan: WindowPlan) -> dict[int, WindowStart]:
        """Find where the window begins in each partition."""
        if plan.change is not None:
            known = {int(partition): place for partition, place in plan.change.partitions.items()}
            # A partition the estimate does not name had no outcome of this model when it was made.
            earliest = min((place.append_ms for place in known.values()), default=plan.trigger_append_ms)
            times = {p: known[p].append_ms if p in known else earliest for p in self._partitions}
            found = self._offsets.at(OUTCOMES, {p: time_ms - self._grace_ms for p, time_ms in times.items()})
            return {p: WindowStart(found[p], known[p].seq if p in known else 0) for p in self._partitions}
        begins = self._offsets.begins(OUTCOMES, self._partitions)
        floor = {p: max(begins[p], (plan.used_ends or {}).get(p, 0)) for p in self._partitions}
        until = self._offsets.at(OUTCOMES, dict.fromkeys(self._partitions, plan.trigger_append_ms + 1))
        reached = self._reach_back(plan, until, floor, plan.max_rows, plan.trigger_append_ms + 1)
        return {p: WindowStart(offset) for p, offset in reached.items()}

    def ends_after(self, window_end: LogPlace) -> dict[int, int]:
        """Per partition the first offset beyond a window end that is final."""
        times = {p: window_end.first_time_after(p) for p in self._partitions if p != window_end.partition}
        ends = self._offsets.at(OUTCOMES, times)
        if window_end.partition in self._partitions:
            ends[window_end.partition] = window_end.offset + 1
        return ends

    def known_ends(self) -> dict[int, int]:
        """The topic's ends now, open transactions included."""
        return self._offsets.ends(OUTCOMES, self._partitions)

    def window(
        self, plan: WindowPlan, ends: Mapping[int, int], starts: Mapping[int, WindowStart] | None = None
    ) -> RunWindow:
        """Read the rows on both sides of the change, below ``ends``. ``starts``: if known already."""
        starts = starts or self.starts(plan)
        snapshot = self._cache.of(plan.model)
        before = self._older(plan, starts)
        window = RunWindow(WindowRows(starts, plan))
        ranges = {p: range(before[p], ends.get(p, 0)) for p in self._partitions}
        self._fill(window, plan.model, ranges, snapshot)
        self._announce_gaps(plan, starts, window)
        window.rows.finish()
        return window

    def _announce_gaps(self, plan: WindowPlan, starts: Mapping[int, WindowStart], window: RunWindow) -> None:
        """Report outcomes after the change that retention removed before the run could read them."""
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
            window.set_aside(
                Record(OUTCOMES.name, p, begins[p] - 1, plan.trigger_append_ms, None, None), reason
            )

    def _fill(
        self, window: RunWindow, model: str, ranges: Mapping[int, range], snapshot: CacheSnapshot
    ) -> None:
        """Read from the cache what it holds, the rest from the log; each partition in order."""
        below, above = dict[int, range](), dict[int, range]()
        for p, offsets in ranges.items():
            segment = snapshot.segment(p)
            below[p] = range(offsets.start, min(offsets.stop, segment.low))
            above[p] = range(max(offsets.start, segment.high), offsets.stop)
        for message in self._of_model(model, below):
            window.add(message)
        for p, offsets in ranges.items():
            segment = snapshot.segment(p)
            window.rows.add_cached(p, segment.between(offsets.start, offsets.stop))
            for record, reason in segment.unreadable:
                if record.offset in offsets:
                    window.set_aside(record, reason)
        for message in self._of_model(model, above):
            window.add(message)

    def _older(self, plan: WindowPlan, starts: Mapping[int, WindowStart]) -> dict[int, int]:
        """Find where to begin, so that the wanted number of older rows lies before the starts."""
        begins = self._offsets.begins(OUTCOMES, self._partitions)
        until = {p: max(starts[p].offset, begins[p]) for p in self._partitions}
        if plan.change is None and plan.used_ends is None:
            return until  # these are the newest rows already: the window is full, or there are no more
        if plan.change is not None and plan.change.partitions:
            end_ms = min(place.append_ms for place in plan.change.partitions.values()) - self._grace_ms
        else:
            end_ms = plan.trigger_append_ms + 1
        return self._reach_back(plan, until, begins, plan.old_rows, end_ms)

    def _reach_back(
        self,
        plan: WindowPlan,
        until: Mapping[int, int],
        floor: Mapping[int, int],
        wanted: int,
        end_ms: int,
    ) -> dict[int, int]:
        """Find offsets with the newest ``wanted`` rows between them and ``until``, ``floor`` where there are
        fewer: where the oldest one's millisecond begins in each partition, whatever records lie there."""
        until = {p: max(offset, floor[p]) for p, offset in until.items()}
        if wanted <= 0:
            return until
        moment = self._cache.of(plan.model).moment(until, floor, wanted)
        if moment is None:
            moment = self._moment(plan, until, floor, wanted, end_ms)
        return self._at(moment, until, floor)

    def _at(self, time_ms: int, until: Mapping[int, int], floor: Mapping[int, int]) -> dict[int, int]:
        """Where a time begins in each partition, between ``floor`` and ``until``."""
        if time_ms <= 0:
            return dict(floor)
        at = self._offsets.at(OUTCOMES, dict.fromkeys(until, time_ms), ends=until)
        return {p: max(floor[p], min(at[p], end)) for p, end in until.items()}

    def _moment(
        self,
        plan: WindowPlan,
        until: Mapping[int, int],
        floor: Mapping[int, int],
        wanted: int,
        end_ms: int,
    ) -> int:
        """Find what the cache's ``moment`` does, from the log.

        Goes back in steps of time, so that all partitions are read back to the same moment and the newest
        rows among them are the newest of all; each step holds about as many records as rows are lacking.
        """
        reached, times = until, list[int]()
        read, span_ms = 0, FIRST_STEP_MS
        while len(times) < wanted and any(reached[p] > floor[p] for p in reached):
            share = len(times) / read if times else 1.0
            span_ms, stepped = self._step(reached, floor, end_ms, span_ms, (wanted - len(times)) / share)
            ranges = {p: range(stepped[p], reached[p]) for p in reached}
            messages = self._of_model(plan.model, ranges)
            times += [_place_of(message).append_ms for message in messages if _is_row(plan, message)]
            read += sum(map(len, ranges.values()))
            reached = stepped
        return nth_newest(times, wanted)

    def _step(
        self,
        reached: Mapping[int, int],
        floor: Mapping[int, int],
        end_ms: int,
        span_ms: int,
        records: float,
    ) -> tuple[int, dict[int, int]]:
        """How far back in time, and so at which offsets, at least ``records`` more begin."""

        def gained(stepped: Mapping[int, int]) -> int:
            return sum(reached[p] - stepped[p] for p in reached)

        short_ms, stepped = span_ms, self._at(end_ms - span_ms, reached, floor)
        while gained(stepped) < records and any(stepped[p] > floor[p] for p in stepped):
            short_ms, span_ms = span_ms, span_ms * GROWTH
            stepped = self._at(end_ms - span_ms, reached, floor)
        for _ in range(BISECTIONS):
            middle_ms = (short_ms + span_ms) // 2
            if gained(stepped) <= 2 * records or middle_ms in (short_ms, span_ms):
                break
            closer = self._at(end_ms - middle_ms, reached, floor)
            if gained(closer) < records:
                short_ms = middle_ms
            else:
                span_ms, stepped = middle_ms, closer
        return span_ms, stepped

    def _of_model(self, model: str, ranges: Mapping[int, range]) -> Iterator[Message]:
        return self._ranges.read(OUTCOMES, ranges, self._cancel, prefix=model_prefix(model))


def _is_row(plan: WindowPlan, message: Message) -> bool:
    try:
        return outcome_key(_bytes(message), len(model_prefix(plan.model))).is_row
    except DecodeError:
        return False  # reported when the window is read


def _place_of(message: Message) -> LogPlace:
    return LogPlace(message.timestamp()[1], message.partition() or 0, message.offset() or 0)


def _bytes(message: Message) -> bytes:
    value = message.value()
    return value if isinstance(value, bytes) else b""
