"""Progress reports of a restoration: their times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from driftloop.streams.join.recovery import loading
from driftloop.streams.join.recovery.loading import PartitionLoader
from driftloop.streams.join.stats import JoinStats, RestoreStats


def test_no_report_is_of_a_time_before_the_restoration_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(step=0.001).__next__  # it is later each time
    monkeypatch.setattr(loading, "time", SimpleNamespace(monotonic=now))
    stats, reported_s = JoinStats(), list[float]()

    def report(_partition: int, restore: RestoreStats, now: float) -> None:
        reported_s.append(now - restore.began_at)

    def steps() -> Iterator[int]:
        stats.restores[0] = RestoreStats(now())
        yield 1

    reports = SimpleNamespace(restoring=report, joining=report)
    loader = cast("Any", SimpleNamespace(_stats=stats, _reports=reports))
    owned = cast("Any", SimpleNamespace(number=0, restoring=steps()))
    while owned.restoring is not None:
        PartitionLoader.restore_some(loader, [owned])
    assert len(reported_s) == 2
    assert min(reported_s) >= 0
