"""Ids for predictions: UUID version 7 (RFC 9562) in plain hex: unique, and sorted by time."""

from __future__ import annotations

import os

_BYTES = 10  # of an id, after its time
_AT_ONCE = 256  # a call to the kernel costs more than all the rest
# A byte's first four bits replaced by the version, and by the variant of RFC 9562 (which may be 8 to b).
_AS_VERSION = bytes(0x70 | byte & 0x0F for byte in range(256))
_AS_VARIANT = bytes(0xA0 | byte & 0x0F for byte in range(256))

_tails: list[str] = []  # what follows an id's time; list.pop is atomic, so no two threads get the same
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tails.clear)


def new_prediction_id(now_ms: int) -> str:
    """32 hex digits: Unix milliseconds, then 72 random bits from the kernel, so ids cannot be guessed.

    Safe across threads and forks.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail, *rest = _fresh_tails()
        _tails.extend(rest)
    return f"{now_ms:012x}{tail}"


def _fresh_tails() -> list[str]:
    fresh = bytearray(os.urandom(_AT_ONCE * _BYTES))
    fresh[0::_BYTES] = fresh[0::_BYTES].translate(_AS_VERSION)
    fresh[2::_BYTES] = fresh[2::_BYTES].translate(_AS_VARIANT)
    return fresh.hex(" ", _BYTES).split(" ")
