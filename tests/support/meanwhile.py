"""Threads that work beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(work: Callable[[], object], threads: int = 1) -> Iterator[threading.Event]:
    """Repeat ``work`` in threads while the block runs, or until the event that it is given is set."""
    enough = threading.Event()

    def repeat() -> None:
        while not enough.is_set():
            work()

    working = [threading.Thread(target=repeat) for _ in range(threads)]
    for thread in working:
        thread.start()
    try:
        yield enough
    finally:
        enough.set()
        for thread in working:
            thread.join()
