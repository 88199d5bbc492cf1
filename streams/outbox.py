"""Encoded events on their way to Kafka: handing one over takes microseconds and never waits.

1. ``send`` gives it to librdkafka's queue (idempotent, no time limit: an outage only delays it).
2. When that queue is full it goes to the overflow, which the outbox's thread empties as room appears.
3. When the overflow is full too, it is dropped, counted in ``stats`` and told to ``on_drop``.

On failure: an event that Kafka refuses for what it is (too large, not authorised) is dropped and told; one
that failed for another reason is sent again; after a fatal error the producer is replaced and what it held
is sent again, where a repeat with the same bytes is dropped by the joiner. A process that dies loses what
was still in 1 and 2; ``close`` waits for it.
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

from ..schemas.errors import SettingsError
from ..schemas.topics import Topic
from .connection import Connection
from .overflow import MemoryOverflow, Overflow, Waiting

log = logging.getLogger(__name__)
_kafka_log = logging.getLogger(f"{__name__}.kafka")

_MAX_DROP_REPORTS = 256
_DROP_LOG_EVERY_S = 10.0
_IDLE_POLL_S = 0.1
_BUSY_POLL_S = 0.005
_RETRY_S = 0.5
_REPLACE_S = 5.0
_SEND_AGAIN = frozenset(
    {
        KafkaError._PURGE_QUEUE,  # pyright: ignore[reportPrivateUsage]
        KafkaError._PURGE_INFLIGHT,  # pyright: ignore[reportPrivateUsage]
        KafkaError._UNKNOWN_TOPIC,  # pyright: ignore[reportPrivateUsage]
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # `driftloop topics apply` may still be on its way
        KafkaError._FATAL,  # pyright: ignore[reportPrivateUsage]
    }
)


class Dropped(NamedTuple):
    """An event that will not arrive, and why."""

    topic: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """``waiting`` are under way, ``dropped`` will not arrive."""

    waiting: int
    dropped: int
    fatal_errors: int


class Outbox:
    """Sends events in the background. Thread safe; not to be carried over a fork."""

    def __init__(
        self,
        connection: Connection,
        *,
        on_drop: Callable[[Dropped], None] | None = None,
        queue_events: int = 100_000,
        overflow: Overflow | None = None,
    ) -> None:
        """Raises SettingsError for settings that librdkafka does not take."""
        self._connection = connection
        self._on_drop = on_drop
        self._queue_events = queue_events
        self._overflow: Overflow = MemoryOverflow() if overflow is None else overflow
        self._reports: deque[Dropped] = deque(maxlen=_MAX_DROP_REPORTS)
        self._counting = threading.Lock()
        self._dropped = self._fatal_errors = 0
        self._log_after = self._retry_after = 0.0
        self._renew = threading.Event()
        self._stop = threading.Event()
        self._producer = self._new_producer()
        self._thread = threading.Thread(target=self._run, name="driftloop-outbox", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> OutboxStats:
        return OutboxStats(len(self._overflow) + len(self._producer), self._dropped, self._fatal_errors)

    def send(self, event: Waiting) -> None:
        """Takes the event over. Never raises for what Kafka does."""
        try:
            self._producer.produce(event.topic, event.value, event.key)
        except BufferError:
            self._to_overflow(event)
        except KafkaException as error:
            self._refused(event, error.args[0])

    def drop(self, topic: str, key: str | bytes, reason: str) -> None:
        """Counts and tells that an event will not arrive."""
        shown = key.decode(errors="replace") if isinstance(key, bytes) else key
        with self._counting:
            self._dropped += 1
        self._reports.append(Dropped(topic, shown, reason))

    def send_to_partition(self, topic: Topic, key: str, value: bytes, choose: Callable[[int], int]) -> None:
        """Sends a record to the partition that ``choose`` makes of their count.

        Waits for metadata, so not for serving paths. Raises KafkaException when the cluster cannot be
        reached or has no such topic, BufferError when the queue is full.
        """
        name = self._connection.topic(topic)
        metadata = self._producer.list_topics(name, timeout=5.0).topics[name]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        self._producer.produce(name, value, key, partition=choose(len(metadata.partitions)))

    def flush(self, timeout_s: float) -> int:
        """Waits until everything has arrived, or the time is over; gives how many are still under way."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and self.stats.waiting:
            if self._producer.flush(min(left, 0.1)) == 0 and len(self._overflow):
                self._stop.wait(_BUSY_POLL_S)  # the outbox's thread moves them
        return self.stats.waiting

    def close(self, timeout_s: float) -> None:
        """Flushes for at most ``timeout_s``; what is left then is dropped and counted."""
        self.flush(timeout_s)
        self._stop.set()
        self._thread.join()
        while (event := self._overflow.take()) is not None:
            self.drop(event.topic, event.key, "closed before it could be sent")
        with self._counting:
            self._dropped += len(self._producer)
        self._report_drops(final=True)

    def _new_producer(self) -> Producer:
        config: dict[str, object] = {
            **self._connection.producer(
                linger_ms=10,
                queue_buffering_max_messages=self._queue_events,
                queue_buffering_max_kbytes=128 * 1024,
                message_max_bytes=4 * 1024 * 1024,
                message_timeout_ms=0,
                reconnect_backoff_max_ms=2_000,
            ),
            "delivery.report.only.error": True,
            "on_delivery": self._on_failed_delivery,
            "error_cb": self._on_error,
        }
        try:
            return Producer(config, logger=_kafka_log)
        except KafkaException as error:
            raise SettingsError(f"librdkafka refuses these settings: {error.args[0].str()}") from error

    def _to_overflow(self, event: Waiting) -> None:
        if not self._overflow.offer(event):
            self.drop(event.topic, event.key, "the queue and its overflow are full: Kafka is slow or away")

    def _refused(self, event: Waiting, error: KafkaError) -> None:
        if error.fatal() or error.code() in _SEND_AGAIN:
            self._retry_after = time.monotonic() + _RETRY_S
            self._to_overflow(event)
        else:
            self.drop(event.topic, event.key, error.str())

    def _on_failed_delivery(self, error: KafkaError | None, message: Message) -> None:
        topic, key, value = message.topic(), message.key(), message.value()
        if error is None or topic is None or key is None or value is None:
            return
        raw = value.encode() if isinstance(value, str) else value
        self._refused(Waiting(topic, key, raw), error)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._renew.set()  # an idempotent producer that lost its place sends nothing more

    def _run(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_BUSY_POLL_S if len(self._overflow) else _IDLE_POLL_S)
            if self._renew.is_set():
                self._replace_producer()
            self._empty_overflow()
            self._report_drops()

    def _replace_producer(self) -> None:
        self._renew.clear()
        broken, self._producer = self._producer, self._new_producer()
        with self._counting:
            self._fatal_errors += 1
        log.error("the Kafka producer failed for good and was replaced; what it held is sent again")
        broken.purge()
        broken.flush(_REPLACE_S)  # hands every purged event to _on_failed_delivery

    def _empty_overflow(self) -> None:
        if time.monotonic() < self._retry_after:
            return
        while (event := self._overflow.take()) is not None:
            try:
                self._producer.produce(event.topic, event.value, event.key)
            except BufferError:
                self._overflow.give_back(event)
                return
            except KafkaException as error:
                self._refused(event, error.args[0])
                return

    def _report_drops(self, *, final: bool = False) -> None:
        while self._reports:
            dropped = self._reports.popleft()
            if self._on_drop is not None:
                try:
                    self._on_drop(dropped)
                except Exception:  # the caller's code: reported, and it must not stop the events' thread
                    log.exception("on_drop raised for %s", dropped)
            elif final or time.monotonic() >= self._log_after:
                self._log_after = time.monotonic() + _DROP_LOG_EVERY_S
                log.warning("%d events dropped so far; one of them: %s", self._dropped, dropped)
