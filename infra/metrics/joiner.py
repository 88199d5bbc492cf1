"""The joiner's metrics, read from its counters when they are scraped: the hot loop knows nothing of them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ...streams.join.stats import JoinStats
from . import catalogue as metrics
from .catalogue import Reading


def join_readings(stats: JoinStats) -> Iterable[Reading]:
    """Read what the joiner's counters say now."""
    now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
    yield Reading(metrics.JOIN_RECORDS, stats.records)
    yield Reading(metrics.JOIN_OUTCOMES, stats.outcomes)
    yield Reading(metrics.JOIN_DEAD_LETTERS, stats.dead_letters)
    yield Reading(metrics.JOIN_MISROUTED, stats.misrouted)
    yield Reading(metrics.JOIN_ABORTS, stats.aborts)
    yield Reading(metrics.JOIN_PARTITIONS, stats.partitions)
    yield Reading(metrics.JOIN_LAG, stats.lag)
    yield Reading(metrics.JOIN_HELD, stats.held)
    yield Reading(metrics.JOIN_PAUSES, stats.pauses)
    for partition, restore in sorted(stats.restores.items()):
        labels = (str(partition), restore.source)
        yield Reading(metrics.JOIN_RESTORING, float(restore.took_s is None), labels)
        yield Reading(metrics.JOIN_RESTORED, restore.done, labels)
        yield Reading(metrics.JOIN_TO_RESTORE, restore.total - restore.done, labels)
        yield Reading(metrics.JOIN_RESTORE_RATE, restore.rate(now), labels)
        yield Reading(metrics.JOIN_RESTORE_FETCHED, restore.fetched, labels)
    for partition, checkpoint in sorted(stats.checkpoints.items()):
        of = (str(partition),)
        yield Reading(metrics.JOIN_CHECKPOINT_AGE, max(0, now_ms - checkpoint.written_ms) / 1000, of)
        yield Reading(metrics.JOIN_CHECKPOINT_BYTES, checkpoint.size, of)
        yield Reading(metrics.JOIN_CHECKPOINT_STALL, checkpoint.stalled_s, of)
    yield Reading(metrics.JOIN_CHECKPOINTS_FAILED, stats.checkpoints_failed)
    for partition, books in sorted(stats.books.items()):
        for topic, account in books._asdict().items():
            for name, count in account._asdict().items():
                yield Reading(metrics.JOIN_BOOKS, count, (str(partition), topic, name))
            yield Reading(metrics.JOIN_BOOKS_DIFFERENCE, account.difference, (str(partition), topic))
    for lost in stats.data_loss:
        yield Reading(metrics.JOIN_DATA_LOSS, lost.missing, (lost.topic, str(lost.partition)))
