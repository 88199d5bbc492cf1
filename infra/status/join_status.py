"""What joiners report of their partitions, for ``status``."""

from __future__ import annotations

from contextlib import closing, suppress

from ...schemas.errors import DecodeError
from ...schemas.joining import JoinProgress
from ...schemas.topics import JOIN_PROGRESS
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import LogReader


def read_join_progress(connection: Connection) -> dict[int, JoinProgress]:
    """Read each partition's newest report. Raises BrokerError if the topic cannot be read."""
    reports: dict[int, JoinProgress] = {}
    with closing(LogReader(connection, (JOIN_PROGRESS,))) as reader:
        for record in reader.catch_up():
            with suppress(DecodeError):  # status must work on bad days
                report = JoinProgress.decode(record.value or b"")
                reports[report.partition] = report
    return reports


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
