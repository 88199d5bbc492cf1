"""Encoded events on their way to Kafka: handing one over takes microseconds and never waits.

1. ``send`` gives it to librdkafka's queue (idempotent, no time limit: an outage only delays it).
2. When that queue is full, it goes to the overflow, which the outbox's thread empties as the queue drains.
3. When the overflow is full too, it is dropped, counted in ``stats`` and reported to ``on_drop``.

With a spill folder, events go to disk in an outage: once nothing has arrived for two seconds, or the queue is
full. First the queue's events are written, then, behind them, all new ones (through the overflow, which the
outbox's thread writes ten times a second, so that no caller waits for a disk). From disk they are sent
segment by segment; a segment is removed when all of it was acknowledged. When nothing is left on disk,
``send`` gives to the queue again. A disk that cannot be written is logged and retried; until then 2 and 3
hold.

On failure: an event that Kafka refuses for what it is (too large, not authorised) is dropped and reported;
one that failed for another reason is sent again; after a fatal error the producer is replaced and what it
held is sent again, where the joiner drops a repeat with the same bytes. A process that is killed loses what
was still in 1 and 2 (normally some ten milliseconds of events, at the beginning of an outage up to two
seconds), never what is on disk. ``close`` waits for 1 and 2, and keeps on disk what is left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ....schemas.errors import SettingsError
from ....schemas.reasons.disk import disk_reason
from ....schemas.topics import Topic
from ...kafka.connection import Connection
from .overflow import Overflow, QueuedEvent
from .producer import SEND_AGAIN, event_producer
from .spill import Segment, Spill

log = logging.getLogger(__name__)

_MAX_DROP_REPORTS = 256
_DROP_LOG_EVERY_S = 10.0
_IDLE_POLL_S = 0.1
_BUSY_POLL_S = 0.005
_RETRY_S = 0.5
_REPLACE_S = 5.0
_STALLED_S = 2.0
_WRITE_EVERY_S = 0.1
_WRITE_EVENTS = 5_000
_DISK_RETRY_S = 1.0


class Dropped(NamedTuple):
    """An event that will not arrive, and why."""

    topic: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """``waiting`` are under way, ``on_disk`` of them in files; ``dropped`` will not arrive."""

    waiting: int
    dropped: int
    fatal_errors: int
    on_disk: int = 0
    disk_errors: int = 0


class Outbox:
    """Sends events in the background. Thread safe; it does not survive a fork."""

    def __init__(
        self,
        connection: Connection,
        *,
        on_drop: Callable[[Dropped], None] | None = None,
        queue_events: int = 100_000,
        overflow: Overflow | None = None,
        spill: Spill | None = None,
    ) -> None:
        """The outbox closes ``spill``. Raises SettingsError for what librdkafka does not accept."""
        self._connection = connection
        self._on_drop = on_drop
        self._queue_events = queue_events
        self._overflow = Overflow() if overflow is None else overflow
        self._reports: deque[Dropped] = deque(maxlen=_MAX_DROP_REPORTS)
        self._counting = threading.Lock()
        self._dropped = self._fatal_errors = self._disk_errors = 0
        self._spill = spill
        self._spilling = spill is not None and spill.events > 0  # what an earlier process left goes first
        self._replaying: Segment | None = None
        self._failed_again = False  # something of that segment
        self._unsent: deque[QueuedEvent] = deque()  # of the segment that is being sent
        self._rescued: deque[QueuedEvent] = deque()
        self._replacing = False
        self._retired: Producer | None = None
        self._placed: set[str] = set()
        self._abandoned = False  # closed: what the producer still held is counted
        self._queued_before = 0
        self._moved_at = self._written_at = self._disk_after = self._retired_at = 0.0
        self._log_after = self._retry_after = self._renew_after = 0.0
        self._renew = threading.Event()
        self._stop = threading.Event()
        self._producer = self._new_producer()
        self._thread = threading.Thread(target=self._run, name="driftloop-outbox", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> OutboxStats:
        on_disk = 0 if self._spill is None else self._spill.events
        # What is sent from a segment counts as on disk until all of the segment has arrived.
        queued = (
            len(self._rescued)
            + len(self._overflow)
            + (0 if self._replaying is not None else len(self._producer))
        )
        return OutboxStats(queued + on_disk, self._dropped, self._fatal_errors, on_disk, self._disk_errors)

    def send(self, topic: str, key: str | bytes, value: bytes) -> None:
        """Take over an encoded event. Never raises for what Kafka does."""
        if self._spilling:
            self._to_overflow(QueuedEvent(topic, key, value))
            return
        try:
            self._producer.produce(topic, value, key)
        except BufferError:
            self._spilling = self._spill is not None
            self._to_overflow(QueuedEvent(topic, key, value))
        except KafkaException as error:
            self._refused(QueuedEvent(topic, key, value), error.args[0])

    def drop(self, topic: str, key: str | bytes, reason: str) -> None:
        """Count and report an event that will not arrive."""
        shown = key.decode(errors="replace") if isinstance(key, bytes) else key
        with self._counting:
            self._dropped += 1
        self._reports.append(Dropped(topic, shown, reason))

    def send_to_partition(self, topic: Topic, key: str, value: bytes, choose: Callable[[int], int]) -> None:
        """Send a record to the partition that ``choose`` picks, given how many there are.

        Waits for metadata, so it is not for serving paths. Raises KafkaException if the cluster cannot be
        reached or has no such topic, BufferError if the queue is full.
        """
        name = self._connection.topic(topic)
        self._placed.add(name)
        metadata = self._producer.list_topics(name, timeout=5.0).topics[name]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        self._producer.produce(name, value, key, partition=choose(len(metadata.partitions)))

    def flush(self, timeout_s: float) -> int:
        """Wait until everything has arrived, or for ``timeout_s``; return how many are still under way."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and self.stats.waiting:
            if self._producer.flush(min(left, 0.1)) == 0 and len(self._overflow):
                self._stop.wait(_BUSY_POLL_S)  # the outbox's thread moves them
        return self.stats.waiting

    def close(self, timeout_s: float) -> None:
        """Flush for at most ``timeout_s``; what is left is kept on disk, else dropped and counted."""
        self.flush(timeout_s)
        self._stop.set()
        self._thread.join()
        if self._spill is not None:
            self._keep_rest(self._spill)
        while (event := self._overflow.take()) is not None:
            self.drop(event.topic, event.key, "closed before it could be sent")
        if self._spill is None:
            self._producer.poll(0)  # its undelivered reports would count as events
            with self._counting:
                self._dropped += len(self._producer)
            self._abandoned = True
            self._producer.purge()  # dropped is dropped; and a producer with events in it is never destroyed
            self._producer.poll(0)
        self._report_drops(final=True)

    def _new_producer(self) -> Producer:
        return event_producer(self._connection, self._queue_events, self._on_failed_delivery, self._on_error)

    def _to_overflow(self, event: QueuedEvent) -> None:
        if not self._overflow.offer(event):
            self.drop(event.topic, event.key, "the queue and its overflow are full: Kafka is slow or away")

    def _refused(self, event: QueuedEvent, error: KafkaError) -> None:
        if error.fatal() or error.code() in SEND_AGAIN:
            self._retry_after = time.monotonic() + _RETRY_S
            self._failed_again = True
            self._to_overflow(event)
        else:
            self.drop(event.topic, event.key, error.str())

    def _on_failed_delivery(self, error: KafkaError | None, message: Message) -> None:
        topic, key, value = message.topic(), message.key(), message.value()
        if self._abandoned or error is None or topic is None or key is None or value is None:
            return
        if topic in self._placed:
            return  # acknowledgements: their sender knows the partition, and repeats them
        raw = value.encode() if isinstance(value, str) else value
        event = QueuedEvent(topic, key, raw)
        if self._replacing and error.code() in SEND_AGAIN:
            self._rescued.append(event)  # older than all in the overflow
        else:
            self._refused(event, error)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._renew.set()  # an idempotent producer that lost its place sends nothing more

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except Exception:  # without this thread nothing would be sent, kept or reported any more
                log.exception("the outbox's thread failed and continues")
                self._stop.wait(_RETRY_S)

    def _turn(self) -> None:
        busy = len(self._overflow) > 0 or self._replaying is not None
        self._producer.poll(_BUSY_POLL_S if busy else _IDLE_POLL_S)
        if self._renew.is_set() and time.monotonic() >= self._renew_after:
            self._replace_producer("the Kafka producer failed for good")
            with self._counting:
                self._fatal_errors += 1
        if self._spill is not None:
            self._watch_for_stall()
            if self._spilling:
                self._go_through_disk(self._spill)
        if not self._spilling:
            self._empty_overflow()
        self._empty_retired()
        self._report_drops()

    def _empty_retired(self) -> None:
        """Purge the old producer again: a ``send`` may have been inside it when it was replaced."""
        if self._retired is not None:
            self._retired.purge()
            self._retired.flush(0)
            if not len(self._retired) and time.monotonic() > self._retired_at + _REPLACE_S:
                self._retired = None

    def _watch_for_stall(self) -> None:
        """Detect an outage: while anything arrives, the queue is sometimes shorter than before."""
        queued, now = len(self._producer), time.monotonic()
        replaying = self._replaying is not None  # what is queued is on disk too
        if replaying or queued == 0 or queued < self._queued_before or self._moved_at == 0.0:
            self._moved_at = now
        self._queued_before = queued
        if now - self._moved_at > _STALLED_S:
            self._spilling = True
            self._moved_at = now
            self._replace_producer("nothing arrives at Kafka: events go to disk until it does")

    def _go_through_disk(self, spill: Spill) -> None:
        self._keep_rescued(spill)
        now = time.monotonic()
        if now >= self._written_at + _WRITE_EVERY_S or self._replaying is None:
            self._written_at = now
            self._write_overflow(spill)
        self._send_from_disk(spill)
        if self._replaying is None and not spill.events and now < self._disk_after:
            while self._rescued:  # the disk is full, but Kafka may be back: send from memory
                self._overflow.give_back(self._rescued.pop())
            self._empty_overflow()
        if self._replaying is None and not spill.events and not self._rescued and not len(self._overflow):
            self._spilling = False
            log.info("events go straight to Kafka: nothing waits on disk")

    def _keep_rescued(self, spill: Spill) -> None:
        while self._rescued and time.monotonic() >= self._disk_after:
            batch = [self._rescued.popleft() for _ in range(min(len(self._rescued), _WRITE_EVENTS))]
            if not self._write(spill, batch):
                self._rescued.extendleft(reversed(batch))

    def _write_overflow(self, spill: Spill) -> None:
        while not self._rescued and time.monotonic() >= self._disk_after and len(self._overflow):
            batch: list[QueuedEvent] = []
            while len(batch) < _WRITE_EVENTS and (event := self._overflow.take()) is not None:
                batch.append(event)
            if not self._write(spill, batch):
                for event in reversed(batch):
                    self._overflow.give_back(event)

    def _write(self, spill: Spill, batch: list[QueuedEvent]) -> bool:
        try:
            dropped = spill.append(batch)
        except OSError as error:
            self._disk_failed(error)
            return False
        for event in dropped:
            self.drop(event.topic, event.key, "the spill folder has reached its limit: Kafka is slow or away")
        return True

    def _send_from_disk(self, spill: Spill) -> None:
        if time.monotonic() < self._retry_after:
            return
        try:
            if self._replaying is None:
                if len(self._producer):  # of what was queued before; it is older
                    return
                self._replaying, self._failed_again = spill.oldest(), False
                self._unsent.extend(() if self._replaying is None else self._replaying.events)
            while self._unsent:
                event = self._unsent[0]
                try:
                    self._producer.produce(event.topic, event.value, event.key)
                except BufferError:
                    return
                except KafkaException as error:
                    self._refused(event, error.args[0])
                self._unsent.popleft()
            if self._replaying is not None and not len(self._producer):
                self._keep_rescued(spill)
                if self._failed_again:
                    self._write_overflow(spill)  # what failed of it is kept before it is removed
                spill.remove(self._replaying)
                self._replaying = None
                if not spill.events and not self._rescued:
                    self._empty_overflow()  # Kafka accepts events, and none is older
        except OSError as error:
            self._retry_after = time.monotonic() + _DISK_RETRY_S
            self._disk_failed(error)

    def _disk_failed(self, error: OSError) -> None:
        self._disk_after = time.monotonic() + _DISK_RETRY_S
        folder = None if self._spill is None else self._spill.folder
        reason = disk_reason(error)
        log.error("events that wait for Kafka cannot be kept in %s, they stay in memory: %s", folder, reason)
        with self._counting:
            self._disk_errors += 1

    def _keep_rest(self, spill: Spill) -> None:
        if self._replaying is None and len(self._producer):
            self._replace_producer("closed before Kafka took all events: they are kept on disk", renew=False)
        self._disk_after = 0.0
        self._keep_rescued(spill)
        self._write_overflow(spill)
        for event in self._rescued:  # the disk took no more
            self.drop(event.topic, event.key, "closed, and the disk does not take it")
        self._rescued.clear()
        if spill.events:
            log.warning("%d events wait on disk for the next start", spill.events)
        spill.close()

    def _replace_producer(self, why: str, *, renew: bool = True) -> None:
        failed_for_good = self._renew.is_set()
        self._renew.clear()
        log.error("%s; the producer is emptied, and what it held is sent again", why)
        broken = self._producer
        if renew:
            try:
                self._producer = self._new_producer()
            except SettingsError as error:  # e.g. a certificate that is being replaced
                log.error("no new producer can be made yet: %s", error)
                self._renew_after = time.monotonic() + _RETRY_S
                if failed_for_good:
                    self._renew.set()
        self._replacing = self._spill is not None
        try:
            broken.purge()
            broken.flush(_REPLACE_S)  # calls _on_failed_delivery with every purged event
            if broken is not self._producer:
                self._retired, self._retired_at = broken, time.monotonic()
        finally:
            self._replacing = False
        if self._rescued:
            self._spilling = True

    def _empty_overflow(self) -> None:
        if time.monotonic() < self._retry_after:
            return
        while (event := self._overflow.first()) is not None:  # its place stays taken until it is sent
            try:
                self._producer.produce(event.topic, event.value, event.key)
            except BufferError:
                return
            except KafkaException as error:
                self._overflow.take()
                self._refused(event, error.args[0])
                return
            self._overflow.take()

    def _report_drops(self, *, final: bool = False) -> None:
        while self._reports:
            dropped = self._reports.popleft()
            if self._on_drop is not None:
                try:
                    self._on_drop(dropped)
                except Exception:  # the caller's code: logged; it must not stop the outbox's thread
                    log.exception("on_drop raised for %s", dropped)
            elif final or time.monotonic() >= self._log_after:
                self._log_after = time.monotonic() + _DROP_LOG_EVERY_S
                log.warning("%d events dropped so far; one of them: %s", self._dropped, dropped)
