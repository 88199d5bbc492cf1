"""Waiting in tests: on a condition, with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], deadline_s: float = 15.0, what: str = "") -> T:
    """Returns the condition's first true value; fails the test when there is none before the deadline."""
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
