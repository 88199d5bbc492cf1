"""What joiners report of their partitions, for ``status``."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...schemas.errors import DecodeError
from ...schemas.joining import JoinProgress
from ...schemas.topics import JOIN_PROGRESS
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import LogReader


@dataclass(frozen=True, slots=True)
class JoinView:
    """``partitions``: the newest report of each. ``unreadable``: reports that could not be read."""

    partitions: dict[int, JoinProgress] = field(default_factory=dict[int, JoinProgress])
    unreadable: int = 0


def read_join_view(connection: Connection) -> JoinView:
    """Read the newest reports. Raises BrokerError when the topic cannot be read."""
    reader = LogReader(connection, (JOIN_PROGRESS,))
    partitions: dict[int, JoinProgress] = {}
    unreadable = 0
    try:
        for record in reader.catch_up():
            if record.value is None:
                continue
            try:
                progress = JoinProgress.decode(record.value)
            except DecodeError:
                unreadable += 1
            else:
                partitions[progress.partition] = progress
    finally:
        reader.close()
    return JoinView(partitions, unreadable)


def shown_progress(progress: JoinProgress, *, now_ms: int) -> str:
    """Return one line for a person."""
    if progress.phase == "data_loss":
        return (
            f"stopped by data loss: {progress.missing} {progress.topic} were removed by retention "
            "before they were read (`driftloop join` says how to continue)"
        )
    done, total = progress.done or 0, progress.total or 0
    rate = f"{progress.records_per_s or 0.0:,.0f} records/s"
    if progress.phase == "restoring":
        silent_s = (now_ms - progress.ts) // 1000
        share = f"{done / total:.0%}, " if total else ""
        silent = f" (silent for {silent_s} s)" if silent_s > 10 else ""
        return f"restoring from {progress.source}: {share}{done:,} of {total:,} offsets, {rate}{silent}"
    took_s = (progress.took_ms or 0) / 1000
    if not progress.records:
        return "joining"
    return f"joining; restored from {progress.source} in {took_s:.1f} s: {progress.records:,} records, {rate}"
