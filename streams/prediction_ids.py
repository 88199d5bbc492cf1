"""Ids for predictions: UUID version 7 (RFC 9562) in plain hex, so that they sort by time and never meet."""

from __future__ import annotations

import os
import time


def new_prediction_id() -> str:
    """32 hex digits: milliseconds, then 72 random bits from the kernel, so nobody guesses another's id.

    Safe across threads and forks. ``7`` and ``a`` are the version and the variant of RFC 9562.
    """
    random = os.urandom(10).hex()
    return f"{time.time_ns() // 1_000_000:012x}7{random[:3]}a{random[3:18]}"
