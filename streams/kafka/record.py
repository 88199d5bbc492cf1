"""A record as it was read. Pure, so that the roles' cores may use it: it imports no Kafka client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """One record and its place on the log. ``append_ms``: when the broker appended it."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
