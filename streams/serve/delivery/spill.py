"""Events that wait in files while Kafka is away: they outlive the process, in the order in which they came.

A folder of segments of at most four megabytes, each a sequence of records: CRC-32 and length of the body,
then the body (topic, key, value). One thread writes them in whole batches, and what was written outlives
``kill -9``. A loss of power costs what was written since the last fsync, which is made at most once a second,
when a segment is full and on ``close``. A segment is removed once Kafka has acknowledged all of it, so a
process that dies in between sends it again; the joiner drops repeats with the same bytes.

On failure: a record that was being written when the process died ends its segment, and what precedes it is
kept. Of a damaged segment, what precedes the damage is read. What cannot be read is kept in a file
``.damaged``, since it is unknown whether it was never whole or was altered.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ....schemas.errors import SettingsError
from .overflow import QueuedEvent

try:
    import fcntl
except ImportError:  # Windows: clients work there, with what memory holds
    fcntl = None

log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
_SYNC_EVERY_S = 1.0
_HEAD = struct.Struct("<II")  # CRC-32 of the body, its length
_PARTS = struct.Struct("<HI")  # lengths of topic and key
_MODE = 0o600  # events may be personal

WhenFull = Literal["oldest", "newest"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One file, read. ``lost_bytes`` could not be read."""

    number: int
    events: tuple[QueuedEvent, ...]
    lost_bytes: int


class Spill:
    """A folder of waiting events, used by one thread of one process."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 1024 * 1024 * 1024, when_full: WhenFull = "newest"
    ) -> None:
        """``when_full``: which events are dropped; the oldest go by whole segments.

        Raises SettingsError if the folder cannot be used or another process uses it.
        """
        if fcntl is None:
            raise SettingsError(f"events cannot be kept in {folder}: locking files needs a POSIX system")
        self.folder = folder
        self._max_bytes = max_bytes
        self._when_full: WhenFull = when_full
        self._sizes: dict[int, int] = {}  # by segment, the oldest first
        self._counts: dict[int, int] = {}
        self.events = 0
        """How many events wait."""
        self.bytes = 0
        self._last = 0
        self._synced_at = 0.0
        self._given_up: list[QueuedEvent] = []  # removed to make space, and not reported yet
        self._open_number: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise SettingsError(f"events cannot be kept in {folder}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find_segments()
        except OSError as error:
            os.close(self._lock)
            raise SettingsError(
                f"{folder} is in use or unreadable ({error}): each process needs a folder of its own for the "
                "events that wait for Kafka; give each its own DRIFTLOOP_INSTANCE_ID"
            ) from error

    def append(self, events: Sequence[QueuedEvent]) -> list[QueuedEvent]:
        """Write events behind all others and return those that were dropped because the folder is full.

        Raises OSError if the disk does not take them: then none of them was kept. Older ones that were
        removed for them are returned by the next call that succeeds.
        """
        data, kept, dropped = bytearray(), 0, list[QueuedEvent]()
        for event in events:
            record = _packed(event)
            if self.bytes + len(data) + len(record) > self._max_bytes and not self._make_space(
                len(data) + len(record)
            ):
                dropped.append(event)
                continue
            data += record
            kept += 1
        if kept:
            self._write(data, kept)
        given_up, self._given_up = self._given_up, []
        return given_up + dropped

    def _write(self, data: bytearray, events: int) -> None:
        number = self._writable()
        size = self._sizes.get(number, 0)
        file = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            _write_at(file, data, size)
            self._sync_when_due(file, size, len(data))
        finally:
            os.close(file)
        self._sizes[number] = size + len(data)
        self._counts[number] = self._counts.get(number, 0) + events
        self.bytes += len(data)
        self.events += events
        self._open_number = number

    def oldest(self) -> Segment | None:
        """Return the oldest segment and add nothing more to it; None: nothing waits. Raises OSError."""
        if not self._sizes:
            return None
        number = next(iter(self._sizes))
        if number == self._open_number:
            self._open_number = None
        data = self._path(number).read_bytes()
        events, good = _unpacked(data)
        return Segment(number, tuple(events), len(data) - good)

    def remove(self, segment: Segment) -> None:
        """Remove a segment that has arrived, or that waits elsewhere. Raises OSError."""
        path = self._path(segment.number)
        if segment.lost_bytes and path.exists():
            log.error("%d bytes of %s cannot be read: kept as .damaged", segment.lost_bytes, path)
            path.rename(path.with_suffix(".damaged"))
        else:
            path.unlink(missing_ok=True)
        self._forget(segment.number)

    def close(self) -> None:
        """Release the folder; the segments stay."""
        if self._lock >= 0:
            self._sync_open()
            os.close(self._lock)
            self._lock = -1

    def _sync_when_due(self, file: int, size: int, added: int) -> None:
        now = time.monotonic()
        if size + added < SEGMENT_BYTES and now < self._synced_at + _SYNC_EVERY_S:
            return
        try:
            os.fsync(file)
            _sync(self.folder)  # its name may be new
        except OSError:
            os.ftruncate(file, size)  # the disk may not have it, and the caller still does
            raise
        self._synced_at = now

    def _sync_open(self) -> None:
        if self._open_number is None:
            return
        try:
            _sync(self._path(self._open_number))
            _sync(self.folder)
        except OSError as error:
            log.error("the last events in %s may not outlive a loss of power: %s", self.folder, error)

    def _make_space(self, needed: int) -> bool:
        if self._when_full == "newest" or needed > self._max_bytes:
            return False
        while self.bytes + needed > self._max_bytes and (oldest := self.oldest()) is not None:
            self._given_up.extend(oldest.events)
            self.remove(oldest)
        return self.bytes + needed <= self._max_bytes

    def _writable(self) -> int:
        number = self._open_number
        if number is not None and self._sizes[number] < SEGMENT_BYTES:
            return number
        newest = next(reversed(self._sizes), None)
        self._last = max(self._last, newest or 0) + 1
        return self._last

    def _find_segments(self) -> None:
        self._last = 0
        for path in sorted(self.folder.glob("*.spill")):
            if not path.stem.isdigit():
                log.warning("%s is not a segment and stays as it is", path)
                continue
            number = int(path.stem)
            data = path.read_bytes()
            events, good = _unpacked(data)
            if good < len(data) and _is_torn(data[good:]):  # the process died while it wrote this record
                log.warning("%s ends in a record that is not whole: %d bytes", path, len(data) - good)
                self._set_aside(path, data[good:], good)
            self._sizes[number] = good
            self._counts[number] = len(events)
            self.bytes += good
            self.events += len(events)
            self._last = number

    def _set_aside(self, path: Path, rest: bytes, good: int) -> None:
        try:
            path.with_suffix(".damaged").write_bytes(rest)
        except OSError as error:  # a full disk must not stop a start; ``remove`` tries again
            log.error("%d bytes of %s cannot be set aside: %s", len(rest), path, error)
            return
        os.truncate(path, good)

    def _forget(self, number: int) -> None:
        self.bytes -= self._sizes.pop(number, 0)
        self.events -= self._counts.pop(number, 0)
        if number == self._open_number:
            self._open_number = None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:016d}.spill"


def _packed(event: QueuedEvent) -> bytes:
    topic = event.topic.encode()
    key = event.key.encode() if isinstance(event.key, str) else event.key
    body = b"".join((_PARTS.pack(len(topic), len(key)), topic, key, event.value))
    return _HEAD.pack(zlib.crc32(body), len(body)) + body


def _unpacked(data: bytes) -> tuple[list[QueuedEvent], int]:
    events: list[QueuedEvent] = []
    at = 0
    while at + _HEAD.size <= len(data):
        crc, length = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) < max(length, _PARTS.size) or zlib.crc32(body) != crc:
            break
        topic, key = _PARTS.unpack_from(body)
        key_at, value_at = _PARTS.size + topic, _PARTS.size + topic + key
        events.append(
            QueuedEvent(body[_PARTS.size : key_at].decode(), body[key_at:value_at], body[value_at:])
        )
        at += _HEAD.size + length
    return events, at


def _is_torn(rest: bytes) -> bool:
    """Whether the record is cut short rather than altered."""
    return len(rest) < _HEAD.size or len(rest) < _HEAD.size + _HEAD.unpack_from(rest)[1]


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _write_at(file: int, data: bytearray, size: int) -> None:
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(file, memoryview(data)[done:], size + done)
    except OSError:
        os.ftruncate(file, size)
        raise
