"""A set of names in few bytes: a bit per hash, so that a few other names count as seen too."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass

_BITS_PER_NAME = 16  # then one name in sixteen that was not seen counts as seen
_MOST_BYTES = 8192


@dataclass(frozen=True, slots=True)
class SeenNames:
    """``bits``: at hash modulo their number, the lowest of a byte first."""

    bits: bytes

    @classmethod
    def of(cls, names: Collection[str]) -> SeenNames:
        bits = bytearray(min(len(names) * _BITS_PER_NAME // 8, _MOST_BYTES))
        for name in names:
            place = _hash(name) % (8 * len(bits))
            bits[place // 8] |= 1 << place % 8
        return cls(bytes(bits))

    def __contains__(self, name: str) -> bool:
        if not self.bits:
            return False
        place = _hash(name) % (8 * len(self.bits))
        return bool(self.bits[place // 8] >> place % 8 & 1)

    @property
    def fill(self) -> float:
        """How likely it is that a name that was not seen counts as seen."""
        return sum(map(int.bit_count, self.bits)) / (8 * len(self.bits)) if self.bits else 0.0

    def text(self) -> str:
        """Return them as base64."""
        return b64encode(self.bits).decode()

    @classmethod
    def read(cls, text: str) -> SeenNames:
        """Raises ValueError if it is not base64."""
        return cls(b64decode(text, validate=True))


def _hash(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))
