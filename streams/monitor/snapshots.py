"""The monitor's snapshots: how they are stored in monitor-state, and where a partition resumes.

A snapshot is written to the partition of monitor-state that has the vitals partition's number, after the
events of every record it covers were acknowledged. Two slots alternate, so that a snapshot torn by a crash
between its chunks never replaces the last whole one. Compaction keeps the newest of each slot.

Any whole snapshot is a true state of a prefix of the log. A stale one (from a worker that has lost the
partition but not noticed) therefore costs a longer replay, never a wrong decision. Readers take the one with
the highest offset.

On failure: reading has no side effects; do it again.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...schemas.topics import MONITOR_STATE, VITALS, Topic
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets
from ..kafka.reader import LogReader

log = logging.getLogger(__name__)

CHUNK_BYTES = 900_000  # with headers, below Kafka's default message.max.bytes (1,048,588)
SLOTS = 2
FIRST_WINDOW = 8  # records read back from the end at first: a few snapshots of one chunk each
_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The core's state after the record at ``applied_offset``."""

    applied_offset: int
    data: bytes
    slot: int = 0


class ChunkHeader(BaseModel):
    """First line of a chunk's value; the rest is its part of the zlib-compressed state."""

    model_config = ConfigDict(frozen=True)

    snapshot: int = 1
    slot: Annotated[int, Field(ge=0)]
    applied_offset: int
    chunk: Annotated[int, Field(ge=0)]
    chunks: Annotated[int, Field(gt=0)]
    sha256: str


def encode_snapshot(
    snapshot: Snapshot, *, partition: int, chunk_bytes: int = CHUNK_BYTES
) -> list[tuple[bytes, bytes]]:
    """Return (key, value) of each chunk, to be sent in order."""
    packed = zlib.compress(snapshot.data, level=1)
    digest = hashlib.sha256(packed).hexdigest()
    parts = [packed[i : i + chunk_bytes] for i in range(0, len(packed), chunk_bytes)]
    records: list[tuple[bytes, bytes]] = []
    for i, part in enumerate(parts):
        header = ChunkHeader(
            slot=snapshot.slot,
            applied_offset=snapshot.applied_offset,
            chunk=i,
            chunks=len(parts),
            sha256=digest,
        )
        key = f"{partition}/{snapshot.slot}/{i}".encode()
        records.append((key, header.model_dump_json().encode() + b"\n" + part))
    return records


def newest_snapshot(values: Iterable[bytes]) -> Snapshot | None:
    """Return the whole snapshot with the highest offset, or None. Torn and damaged ones are skipped."""
    whole: dict[tuple[int, str], dict[int, bytes]] = {}
    best: Snapshot | None = None
    for value in values:
        line, _, part = value.partition(b"\n")
        try:
            header = ChunkHeader.model_validate_json(line)
        except ValidationError:
            log.warning("monitor-state holds a record that is not a snapshot chunk: %r", line[:80])
            continue
        parts = whole.setdefault((header.applied_offset, header.sha256), {})
        parts[header.chunk] = part
        if len(parts) < header.chunks or (best is not None and best.applied_offset >= header.applied_offset):
            continue
        packed = b"".join(parts[i] for i in sorted(parts))
        if hashlib.sha256(packed).hexdigest() == header.sha256:
            best = Snapshot(header.applied_offset, zlib.decompress(packed), header.slot)
    return best


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a vitals partition resumes: after ``snapshot``, or at the log's beginning without one."""

    snapshot: Snapshot | None
    start: int
    low: int  # the log's first offset
    lost: range | None = None  # offsets that retention removed before they were read

    @classmethod
    def decide(cls, snapshot: Snapshot | None, low: int, high: int) -> ResumePoint:
        """``low`` and ``high`` are the vitals partition's first and next offset.

        A snapshot beyond the log's end belongs to another log (the topic was recreated) and is dropped.
        """
        if snapshot is not None and snapshot.applied_offset >= high:
            log.error(
                "the monitor's snapshot is at offset %d but vitals ends at %d: it belongs to another log "
                "and is dropped",
                snapshot.applied_offset,
                high,
            )
            snapshot = None
        if snapshot is None:
            return cls(None, low, low)
        start = snapshot.applied_offset + 1
        if start >= low:
            return cls(snapshot, start, low)
        # The state is kept: it also carries specs and references whose control records are long gone.
        log.error("vitals lost offsets %d to %d to retention before the monitor read them", start, low - 1)
        return cls(snapshot, low, low, range(start, low))


def find_resume_point(connection: Connection, partition: int) -> ResumePoint:
    """Read the newest snapshot and the vitals partition's bounds. Blocking. Raises BrokerError."""
    offsets = LogOffsets(connection)
    snapshot = _read_newest(connection, offsets, partition)
    return ResumePoint.decide(snapshot, *_bounds(offsets, VITALS, partition))


def _bounds(offsets: LogOffsets, topic: Topic, partition: int) -> tuple[int, int]:
    return offsets.begins(topic, [partition])[partition], offsets.ends(topic, [partition])[partition]


def _read_newest(connection: Connection, offsets: LogOffsets, partition: int) -> Snapshot | None:
    """Read growing windows at the log's end: compaction is lazy, so the log may be long."""
    low, high = _bounds(offsets, MONITOR_STATE, partition)
    window, start, only = FIRST_WINDOW, high, frozenset({partition})
    while start > low:
        start = max(low, high - window)
        window *= 8
        with closing(LogReader(connection, (MONITOR_STATE,), partitions=only, start=start)) as reader:
            records = reader.catch_up(_DEADLINE_S)
            snapshot = newest_snapshot(record.value for record in records if record.value is not None)
        if snapshot is not None:
            return snapshot
    return None
