"""Count labels for all waiting runs at once: one reader, one pass over the log, a count per run.

It has its own thread, so that heavy traffic delays neither triggers nor commands. The shell says which runs
wait and may ask for the progress of each at any time. A run that joins with an earlier start makes the reader
go back; the other runs skip what they have counted.

On failure: what Kafka refuses is tried again; a defect is raised in the shell by ``check``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ....models.registry.artifacts import ArtifactStore
from ....schemas.errors import ArtifactError, BrokerError, DecodeError
from ....schemas.topics import OUTCOMES
from ...kafka.connection import Connection
from ...kafka.offsets import LogOffsets
from ...kafka.ranges import LogRanges
from ...kafka.reader import as_record, end_of_partition, report_error
from .cache import (
    APPEND_MS,
    IS_ROW,
    OFFSET,
    SEQ,
    VALUE,
    CacheSnapshot,
    FollowedOutcome,
    OutcomeCache,
    UnreadableOutcome,
)
from .prefix import Labels, OutcomeKey, model_prefix, outcome_key
from .reader import OutcomeReader
from .window import Clock, FrozenWindow, LabelCount, LogPlace, WaitRequest, WindowStart

log = logging.getLogger(__name__)

POLL_S = 0.02
# After this, what is appended has a later time than what was seen before it: times are in milliseconds.
FINALISE_S = 0.002
RETRY_S = 1.0
WALL_GRACE_MS = 10_000  # a broker's clock may be behind; a deadline is noticed late, never early


@dataclass(frozen=True, slots=True)
class WaitProgress:
    """How far a run's count is, and its frozen window once that is final."""

    labels: int
    offsets: dict[str, int]
    frozen: FrozenWindow | None = None


@dataclass(slots=True)
class _Watch:
    request: WaitRequest
    starts: dict[int, WindowStart]
    next: dict[int, int]
    count: LabelCount
    labels: Labels
    finalising_since: float | None = None
    final_ends: dict[int, int] | None = None
    frozen: FrozenWindow | None = None

    def take(self, place: LogPlace, seq: int, value: bytes) -> None:
        """Count one row of the run's model that was not seen before."""
        start = self.starts[place.partition]
        if place.offset < start.offset or seq < start.seq:
            return
        try:
            event_ms = self.labels.event_ms(value)
        except DecodeError:
            return  # it becomes a dead letter when the window is read
        if event_ms is not None:
            self.count.add(place, event_ms)

    def take_snapshot(self, snapshot: CacheSnapshot) -> None:
        """Count what is cached from the start on: it need not be read again."""
        for partition, offset in self.next.items():
            segment = snapshot.segment(partition)
            if segment.low <= offset < segment.high:
                for row in segment.between(offset, segment.high):
                    if row[IS_ROW]:
                        place = LogPlace(row[APPEND_MS], partition, row[OFFSET])
                        self.take(place, row[SEQ], row[VALUE])
                self.next[partition] = segment.high


class OutcomeWatch:
    """Counts labels for waiting runs, in the background, until closed."""

    def __init__(
        self,
        connection: Connection,
        offsets: LogOffsets,
        store: ArtifactStore,
        clock: Clock,
        cache: OutcomeCache,
    ) -> None:
        """``cache``: filled with what is read, also while no run waits."""
        self._connection = connection
        self._cache = cache
        self._offsets = offsets
        self._store = store
        self._clock: Clock = clock
        self._lock = threading.Lock()  # of what both threads use: the three below
        self._wanted: dict[str, WaitRequest] = {}
        self._progress: dict[str, WaitProgress] = {}
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._watches: dict[str, _Watch] = {}
        self._at: dict[int, int] = {}  # the reader's position in each assigned partition
        self._thread = threading.Thread(target=self._run, name="driftloop-outcomes", daemon=True)
        self._thread.start()

    # --- the shell's side -------------------------------------------------------------------------------

    def want(self, requests: Iterable[WaitRequest]) -> None:
        """Set the runs that wait now. One whose request changed is counted from the start again."""
        wanted = {request.run_id: request for request in requests}
        with self._lock:
            same = {run_id for run_id, request in wanted.items() if self._wanted.get(run_id) == request}
            self._progress = {run_id: known for run_id, known in self._progress.items() if run_id in same}
            is_new = wanted.keys() - self._wanted.keys()
            self._wanted = wanted | {run_id: self._wanted[run_id] for run_id in same}
        if is_new:
            self._wake.set()

    def progress(self, run_id: str) -> WaitProgress | None:
        """None until the start of the run's window was found."""
        with self._lock:
            return self._progress.get(run_id)

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self, timeout_s: float = 2.0) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)

    # --- the thread's side ------------------------------------------------------------------------------

    def _run(self) -> None:
        consumer = Consumer(
            self._connection.consumer("watch", auto_offset_reset="error", fetch_wait_max_ms=20)
        )
        ranges = LogRanges(self._connection, name="watch")
        try:
            reader = OutcomeReader(self._offsets, ranges, self._stop, self._cache)
            while not self._stop.is_set():
                try:
                    self._turn(consumer, reader)
                except (BrokerError, KafkaException) as error:
                    log.warning("outcomes cannot be watched, trying again: %s", error)
                    consumer.unassign()
                    self._at = {}
                    self._watches.clear()
                    self._cache.forget()
                    self._stop.wait(RETRY_S)
        except BaseException as failure:  # noqa: BLE001  # handed to the shell, which raises it
            if not self._stop.is_set():
                self._failure = failure
        finally:
            ranges.close()
            consumer.close()

    def _turn(self, consumer: Consumer, reader: OutcomeReader) -> None:
        if self._cache.begin_needed:
            self._follow(consumer)
        self._reconcile(consumer, reader)
        if not self._watches and not self._cache.followed:
            self._wake.wait(POLL_S * 5)
            self._wake.clear()
            return
        finalising = any(watch.finalising_since and watch.frozen is None for watch in self._watches.values())
        first = consumer.poll(FINALISE_S if finalising else POLL_S)
        if first is not None:
            self._take([first, *consumer.consume(1000, timeout=0)])
        for watch in self._watches.values():
            self._finalise(watch, reader)
        self._publish()

    def _follow(self, consumer: Consumer) -> None:
        """Begin where about as many records follow as are to be cached, or earlier if a run needs it."""
        partitions = self._offsets.partitions(OUTCOMES)
        begins, ends = self._offsets.begins(OUTCOMES, partitions), self._offsets.ends(OUTCOMES, partitions)
        back = -(-self._cache.expected() // len(partitions))
        at = {p: max(begins[p], ends[p] - back) for p in partitions}
        self._cache.begin(at)
        self._assign(consumer, at | {p: min(at[p], old) for p, old in self._needed().items()})

    def _reconcile(self, consumer: Consumer, reader: OutcomeReader) -> None:
        with self._lock:
            wanted = dict(self._wanted)
        for run_id, watch in list(self._watches.items()):
            if wanted.get(run_id) is not watch.request:
                del self._watches[run_id]
        added = [request for run_id, request in wanted.items() if run_id not in self._watches]
        for request in added:
            self._watches[request.run_id] = self._admit(request, reader)
        if not self._watches and self._at and not self._cache.followed:
            consumer.unassign()
            self._at = {}
        elif added:
            self._go_back(consumer)

    def _admit(self, request: WaitRequest, reader: OutcomeReader) -> _Watch:
        starts = reader.starts(request.plan)
        places = {partition: start.offset for partition, start in starts.items()}
        labels = Labels(request.spec, self._classes(request))
        watch = _Watch(request, starts, places, LabelCount(request, self._clock), labels)
        watch.take_snapshot(self._cache.of(request.plan.model))
        return watch

    def _classes(self, request: WaitRequest) -> tuple[str, ...] | None:
        """The champion's classes if the spec has none: of two, a "wrong" says which is right."""
        if request.manifest_sha256 is None or request.spec.classes is not None:
            return None
        try:
            return self._store.get_manifest(request.plan.model, request.manifest_sha256).classes
        except ArtifactError as error:
            log.warning("feedback of %s is counted without classes: %s", request.plan.model, error)
            return None

    def _needed(self) -> dict[int, int]:
        """The earliest offset in each partition that a watch has not seen yet."""
        places: dict[int, int] = {}
        for watch in self._watches.values():
            for partition, offset in watch.next.items():
                places[partition] = min(offset, places.get(partition, offset))
        return places

    def _go_back(self, consumer: Consumer) -> None:
        """Read again from what a watch has not seen yet, if the reader is past it."""
        needed = self._needed()
        if any(self._at.get(partition, offset + 1) > offset for partition, offset in needed.items()):
            self._assign(consumer, {p: min(offset, self._at.get(p, offset)) for p, offset in needed.items()})

    def _assign(self, consumer: Consumer, at: dict[int, int]) -> None:
        name = self._connection.topic(OUTCOMES)
        consumer.assign([TopicPartition(name, p, offset) for p, offset in at.items()])
        self._at = at

    def _take(self, messages: list[Message]) -> None:
        by_prefix: dict[bytes, list[_Watch]] = {}
        for watch in self._watches.values():
            by_prefix.setdefault(model_prefix(watch.request.plan.model), []).append(watch)
        kept: list[FollowedOutcome] = []
        seen_ms: dict[int, int] = {}
        for message in messages:
            partition, offset = message.partition() or 0, message.offset() or 0
            error = message.error()
            if error is not None:
                if (end := end_of_partition(message)) is not None:
                    self._at[partition] = max(self._at.get(partition, 0), end)
                elif message.topic() is None:
                    report_error(message)
                elif partition in self._at:
                    raise BrokerError(f"{message.topic()}[{partition}] cannot be read: {error}")
                continue
            self._at[partition] = offset + 1
            seen_ms[partition] = append_ms = message.timestamp()[1]
            value = message.value()
            if not isinstance(value, bytes):
                continue
            prefix = value[: value.find(b",") + 1]
            watches, is_kept = by_prefix.get(prefix, ()), self._cache.keeps(prefix)
            if not watches and not is_kept:
                continue
            try:
                key = outcome_key(value, len(prefix))
            except DecodeError as error:
                key = UnreadableOutcome(as_record(message), error.reason)
            if is_kept:
                kept.append(FollowedOutcome(prefix, partition, offset, append_ms, key, value))
            if isinstance(key, OutcomeKey) and key.is_row:
                for watch in watches:
                    if offset >= watch.next[partition]:
                        watch.take(LogPlace(append_ms, partition, offset), key.seq, value)
        self._cache.add(kept, seen_ms, self._at)
        for watch in self._watches.values():
            for partition, offset in self._at.items():
                watch.next[partition] = max(watch.next[partition], offset)

    def _finalise(self, watch: _Watch, reader: OutcomeReader) -> None:
        """Freeze the window once everything that could come before its end was read."""
        if watch.frozen is not None:
            return
        window_end = watch.count.window_end(time.time_ns() // 1_000_000 - WALL_GRACE_MS)
        if window_end is None:
            watch.finalising_since = watch.final_ends = None
            return
        watch.finalising_since = watch.finalising_since or time.monotonic()
        if watch.final_ends is None and time.monotonic() - watch.finalising_since > FINALISE_S:
            watch.final_ends = reader.known_ends()
        if watch.final_ends is not None and all(
            watch.next[partition] >= end for partition, end in watch.final_ends.items()
        ):
            watch.frozen = watch.count.freeze(window_end, reader.ends_after(window_end), watch.starts)

    def _publish(self) -> None:
        with self._lock:
            for run_id, watch in self._watches.items():
                if self._wanted.get(run_id) is watch.request:
                    offsets = {str(partition): offset for partition, offset in sorted(watch.next.items())}
                    self._progress[run_id] = WaitProgress(watch.count.labels, offsets, watch.frozen)
