"""Waiting in tests: on a condition, with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str = "", *, deadline_s: float = 120.0) -> T:
    """Return the condition's first true value; the deadline only ends what hangs."""
    deadline = time.monotonic() + deadline_s
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}; last value: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
