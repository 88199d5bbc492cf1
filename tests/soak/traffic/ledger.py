"""What the brokers acknowledged, on disk as it comes: topic, partition, offset and the value's checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

_ENTRY = struct.Struct("<BHQI")
_BLOCK = _ENTRY.size * 65_536


class Acknowledged(NamedTuple):
    label: bool
    partition: int
    offset: int
    checksum: int


class LedgerWriter:
    """Appends; what was flushed survives the writer."""

    def __init__(self, file: Path) -> None:
        self._file: IO[bytes] = file.open("ab", buffering=1 << 16)
        self.entries = 0

    def write(self, label: bool, partition: int, offset: int, value: bytes) -> None:
        self._file.write(_ENTRY.pack(label, partition, offset, zlib.crc32(value)))
        self.entries += 1

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_ledger(file: Path) -> Iterator[Acknowledged]:
    """All whole entries; one that a kill has cut off was acknowledged to nobody."""
    with file.open("rb") as entries:
        while block := entries.read(_BLOCK):
            whole = len(block) - len(block) % _ENTRY.size
            for label, partition, offset, checksum in _ENTRY.iter_unpack(block[:whole]):
                yield Acknowledged(bool(label), partition, offset, checksum)
