"""Shadows answer off the request's path: a bounded queue and one thread that takes what has gathered."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..plain_values import Plain

log = logging.getLogger(__name__)

_MAX_WAITING = 2_000
_MAX_TOGETHER = 64


class Asked(NamedTuple):
    """A request that was answered, as the shadows shall see it."""

    prediction_id: str
    features: dict[str, Plain]
    segments: dict[str, Plain] | None
    ts: int


class ShadowAnswers:
    """``answer`` is called with requests that have gathered. What does not fit is skipped and counted."""

    def __init__(self, model: str, answer: Callable[[Sequence[Asked]], None]) -> None:
        self._answer = answer
        self._waiting: queue.Queue[Asked | None] = queue.Queue(_MAX_WAITING)
        self._skipped = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"driftloop-shadows-{model}", daemon=True)
        self._thread.start()

    @property
    def skipped(self) -> int:
        return self._skipped

    def ask(self, asked: Asked) -> None:
        """Never waits."""
        try:
            self._waiting.put_nowait(asked)
        except queue.Full:
            with self._counting:
                self._skipped += 1

    def close(self, timeout_s: float) -> None:
        """Answers what has gathered, for at most ``timeout_s``."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            together, closing = self._gathered(first)
            try:
                self._answer(together)
            except Exception:  # a shadow's failure is the shadow's alone; it must not end the others' answers
                log.exception("shadows could not answer %d requests", len(together))
            if closing:
                return

    def _gathered(self, first: Asked) -> tuple[list[Asked], bool]:
        together = [first]
        while len(together) < _MAX_TOGETHER:
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return together, True
            together.append(following)
        return together, False
