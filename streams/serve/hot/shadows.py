"""Shadows answer off the request's path: a bounded queue, and one thread that takes batches from it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

_MAX_WAITING = 2_000
_MAX_TOGETHER = 64

Request = TypeVar("Request")


class ShadowAnswers(Generic[Request]):
    """Calls ``answer`` with queued requests, in batches. What does not fit is skipped and counted."""

    def __init__(self, model: str, answer: Callable[[Sequence[Request]], None]) -> None:
        self._answer = answer
        self._waiting: queue.Queue[Request | None] = queue.Queue(_MAX_WAITING)
        self.skipped = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"driftloop-shadows-{model}", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; never waits."""
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            with self._counting:
                self.skipped += 1

    def close(self, timeout_s: float) -> None:
        """Answer what is queued, for at most ``timeout_s``."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, closing = self._next_batch(first)
            try:
                self._answer(batch)
            except Exception:  # a shadow's failure must not end the others' answers
                log.exception("shadows could not answer %d requests", len(batch))
            if closing:
                return

    def _next_batch(self, first: Request) -> tuple[list[Request], bool]:
        batch = [first]
        while len(batch) < _MAX_TOGETHER:
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False
