"""Where events wait that did not fit into the producer's queue."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple


class QueuedEvent(NamedTuple):
    """An encoded event on its way to a topic."""

    topic: str
    key: str | bytes
    value: bytes


class Overflow:
    """First in, first out; bounded in number and bytes. Thread safe; no call waits."""

    def __init__(self, max_events: int = 50_000, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._events: deque[QueuedEvent] = deque()
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    def offer(self, event: QueuedEvent) -> bool:
        """Add an event; False if it does not fit."""
        with self._lock:
            if len(self._events) >= self._max_events or self._bytes + len(event.value) > self._max_bytes:
                return False
            self._events.append(event)
            self._bytes += len(event.value)
            return True

    def first(self) -> QueuedEvent | None:
        """Return the oldest, or None, without removing it."""
        with self._lock:
            return self._events[0] if self._events else None

    def take(self) -> QueuedEvent | None:
        """Remove and return the oldest, or None."""
        with self._lock:
            if not self._events:
                return None
            event = self._events.popleft()
            self._bytes -= len(event.value)
            return event

    def give_back(self, event: QueuedEvent) -> None:
        """Put back, as the oldest, what ``take`` returned."""
        with self._lock:
            self._events.appendleft(event)
            self._bytes += len(event.value)

    def __len__(self) -> int:
        return len(self._events)
