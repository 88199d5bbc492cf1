"""What a joiner reports of its partitions, for people: nothing is decided by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Event, TimestampMs

Count = Annotated[int, Field(ge=0)]
JoinPhase = Literal["restoring", "joining", "data_loss"]
RestoreSource = Literal["disk", "checkpoint", "log"]


class JoinProgress(Event):
    """Where a joiner stands with a partition: restoring its state, joining, or stopped by data loss.

    ``done`` of ``total`` offsets (of inputs, and of outcomes since the state) were replayed, ``records`` of
    them records; ``fetched_bytes``: of a checkpoint. Data loss: retention removed ``missing`` records of
    ``topic`` before they were read.
    """

    partition: Count
    instance: str
    phase: JoinPhase
    ts: TimestampMs
    source: RestoreSource | None = None
    done: Count | None = None
    total: Count | None = None
    records: Count | None = None
    records_per_s: float | None = None
    took_ms: Count | None = None
    fetched_bytes: Count | None = None
    topic: str | None = None
    missing: Count | None = None
