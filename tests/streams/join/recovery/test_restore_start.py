"""A state that is built from the log begins early enough for all that had not expired."""

from __future__ import annotations

from typing import cast

import pytest
from driftloop.schemas.spec.model import Join
from driftloop.schemas.topics import Topic
from driftloop.streams.join.core import Joiner
from driftloop.streams.join.matching.rules import Rules
from driftloop.streams.join.partition import AssignedPartition
from driftloop.streams.join.reading.batch import BatchReader
from driftloop.streams.join.recovery.restore import Restoration
from driftloop.streams.join.state.position import BUCKET_MS, Position
from driftloop.streams.join.state.store import RocksStore
from driftloop.streams.join.stats import RestoreStats
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets

from tests.support.join.memory_store import MemoryStore

JOIN = Join(horizon=60_000, early_horizon=20_000, correction_window=60_000, clock_skew=1_000)
FAR = 1 << 40


class OneRecordAMillisecond:
    """Offsets of a log where the record at offset n was appended at n ms."""

    def at(self, _topic: Topic, times_ms: dict[int, int]) -> dict[int, int]:
        return times_ms


def start(target: Position) -> Position:
    joiner = Joiner(0, MemoryStore(), Rules(JOIN, {}), vitals_partitions=1, capacity=10)
    offsets = cast("LogOffsets", OneRecordAMillisecond())
    owned = AssignedPartition(joiner, BatchReader(0, 1), cast("RocksStore", None))
    return Restoration(Connection(""), offsets, owned, target, RestoreStats(0.0), flush_ids=10).start()


@pytest.mark.parametrize("behind_ms", [0, 100_000, 400_000])
def test_what_waits_for_the_topic_behind_is_read_again(behind_ms: int) -> None:
    newest_ms, oldest_ms = 1_000_000, 1_000_000 - behind_ms
    for predictions_ms, labels_ms in ((oldest_ms, newest_ms), (newest_ms, oldest_ms)):
        expired = (oldest_ms - JOIN.clock_skew) // BUCKET_MS
        at = start(
            Position(
                FAR, FAR, predictions_ms=predictions_ms, labels_ms=labels_ms,
                expired_predictions=expired, expired_labels=expired,
            )
        )  # fmt: skip
        # A label still waits for its prediction while the predictions' watermark is within its early horizon,
        # and a matched prediction for corrections within its window, which begins a horizon later at most.
        assert at.labels <= oldest_ms - JOIN.early_horizon
        assert at.predictions <= oldest_ms - JOIN.horizon - JOIN.correction_window
        assert 0 < at.replay_outcomes_from_ms <= oldest_ms - JOIN.correction_window


def test_what_expiry_has_not_reached_is_read_again_however_far_the_topics_were_read() -> None:
    """Expiry waits for a flush, and a batch expires so many at most."""
    expired_ms = 700_000
    target = Position(
        FAR, FAR, predictions_ms=1_000_000, labels_ms=1_000_000,
        expired_predictions=expired_ms // BUCKET_MS, expired_labels=950,
    )  # fmt: skip
    assert start(target).predictions <= expired_ms - JOIN.horizon - JOIN.correction_window


def test_an_idle_topic_does_not_send_the_restoration_back_to_its_last_record() -> None:
    carried = 990_000 // 1000
    target = Position(
        FAR, FAR, predictions_ms=1_000, labels_ms=1_000_000,
        expired_predictions=carried, expired_labels=carried,
    )  # fmt: skip
    assert start(target).labels > 800_000
