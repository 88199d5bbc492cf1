"""Reporting how restoring goes, on a topic that ``driftloop status`` reads.

On failure: a report that cannot be delivered is logged; nothing waits for it or depends on it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from ....schemas.joining import JoinPhase, JoinProgress
from ....schemas.topics import JOIN_PROGRESS
from ...kafka.connection import Connection
from ..stats import RestoreStats

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_DATA_LOSS_FLUSH_S = 5.0  # the process ends after it has reported data loss
_CLOSE_FLUSH_S = 0.5


class ProgressReporter:
    """The reports of one joiner: one record per partition, replaced by the next."""

    def __init__(self, connection: Connection, instance_id: str) -> None:
        self._topic = connection.topic(JOIN_PROGRESS)
        self._instance = instance_id
        self._producer = Producer(connection.producer(linger_ms=5))
        self._reported_at: dict[int, float] = {}

    def restoring(self, partition: int, stats: RestoreStats, now: float) -> None:
        """Report at most once a second."""
        if now - self._reported_at.get(partition, 0.0) >= _EVERY_S:
            self._reported_at[partition] = now
            self._report(partition, "restoring", stats, now)

    def joining(self, partition: int, stats: RestoreStats | None, now: float) -> None:
        """Report that the partition is live; ``stats``: of its restoration, if there was one."""
        self._reported_at.pop(partition, None)
        self._report(partition, "joining", stats or RestoreStats(now, "log", took_s=0.0), now)

    def data_loss(self, partition: int, topic: str, missing: int) -> None:
        """Report data loss and wait for the report to arrive: the process ends now."""
        self._send(partition, "data_loss", topic=topic, missing=missing)
        self._producer.flush(_DATA_LOSS_FLUSH_S)

    def tend(self) -> None:
        """Take in what the producer has logged; call it also while there is nothing to report."""
        self._producer.poll(0)

    def close(self) -> None:
        self._producer.flush(_CLOSE_FLUSH_S)
        self._producer.purge()

    def _report(self, partition: int, phase: JoinPhase, stats: RestoreStats, now: float) -> None:
        took_s = now - stats.began_at if stats.took_s is None else stats.took_s
        self._send(
            partition,
            phase,
            source=stats.source,
            done=stats.done,
            total=stats.total,
            records=stats.records,
            records_per_s=round(stats.rate(now), 1),
            took_ms=round(1000 * took_s),
            fetched_bytes=stats.fetched,
        )

    def _send(self, partition: int, phase: JoinPhase, **said: Any) -> None:
        progress = JoinProgress(
            partition=partition, instance=self._instance, phase=phase, ts=time.time_ns() // 1_000_000, **said
        )
        try:
            key = str(partition).encode()
            self._producer.produce(self._topic, progress.encode(), key, on_delivery=_delivered)
        except BufferError:
            log.warning("partition %d: a progress report was left out: the queue is full", partition)
        self._producer.poll(0)


def _delivered(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        log.warning("a progress report was not delivered to %s: %s", message.topic(), error)
