"""Progress reports of a restoration: their times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from driftloop.streams.join.recovery.loading import PartitionLoader
from driftloop.streams.join.stats import JoinStats, RestoreStats


def test_no_report_is_of_a_time_before_the_restoration_began() -> None:
    stats, reported_s = JoinStats(), list[float]()

    def report(_partition: int, restore: RestoreStats, now: float) -> None:
        reported_s.append(now - restore.began_at)

    def steps() -> Iterator[int]:
        time.sleep(0.01)  # a machine that is busy
        stats.restores[0] = RestoreStats(time.monotonic())
        yield 1

    reports = SimpleNamespace(restoring=report, joining=report)
    loader = cast("Any", SimpleNamespace(_stats=stats, _reports=reports))
    owned = cast("Any", SimpleNamespace(number=0, restoring=steps()))
    while owned.restoring is not None:
        PartitionLoader.restore_some(loader, [owned])
    assert len(reported_s) == 2
    assert min(reported_s) >= 0
