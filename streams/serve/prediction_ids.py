"""Ids for predictions: UUID version 7 (RFC 9562) in plain hex, so that they sort by time and never meet."""

from __future__ import annotations

import os
import time

_DIGITS = 20  # random ones per id; two more than are used, so that each begins at a whole byte
_AT_ONCE = 256  # asking the kernel costs more than all the rest

_tails: list[str] = []  # what follows an id's time; a list's pop is one step, so no two threads get the same
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tails.clear)


def new_prediction_id() -> str:
    """32 hex digits: milliseconds, then 72 random bits from the kernel, so nobody guesses another's id.

    Safe across threads and forks. ``7`` and ``a`` are the version and the variant of RFC 9562.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail, *rest = _fresh_tails()
        _tails.extend(rest)
    return f"{time.time_ns() // 1_000_000:012x}{tail}"


def _fresh_tails() -> list[str]:
    fresh = os.urandom(_AT_ONCE * _DIGITS // 2).hex()
    return [f"7{fresh[i : i + 3]}a{fresh[i + 3 : i + 18]}" for i in range(0, len(fresh), _DIGITS)]
