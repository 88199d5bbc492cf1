"""Ids for predictions: UUID version 7 (RFC 9562) in plain hex, so that they sort by time and never meet."""

from __future__ import annotations

import os
import time

_DIGITS = 20  # random ones per id; two more than are used, so that each begins at a whole byte
_AT_ONCE = 256  # asking the kernel costs more than all the rest

_random: list[str] = []  # a list's pop is one step, so no two threads get the same
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)


def new_prediction_id() -> str:
    """32 hex digits: milliseconds, then 72 random bits from the kernel, so nobody guesses another's id.

    Safe across threads and forks. ``7`` and ``a`` are the version and the variant of RFC 9562.
    """
    try:
        random = _random.pop()
    except IndexError:
        fresh = os.urandom(_AT_ONCE * _DIGITS // 2).hex()
        random = fresh[:_DIGITS]
        _random.extend([fresh[i : i + _DIGITS] for i in range(_DIGITS, len(fresh), _DIGITS)])
    return f"{time.time_ns() // 1_000_000:012x}7{random[:3]}a{random[3:18]}"
