"""Events that were handed over and wait for their acknowledgement, so that applying goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable


class Deliveries:
    """Of one partition: each with the offset of the record that caused it, in the order of applying."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[object]]] = deque()

    def add(self, offset: int, acks: Iterable[Awaitable[object]]) -> None:
        self._waiting.extend((offset, asyncio.ensure_future(ack)) for ack in acks)

    def reached(self, applied: int) -> int:
        """The offset up to which all is acknowledged, where everything up to ``applied`` is applied."""
        while self._waiting and _arrived(self._waiting[0][1]):
            self._waiting.popleft()
        return self._waiting[0][0] - 1 if self._waiting else applied

    def check(self) -> None:
        """Raises what the oldest one that has not arrived failed with, if it did."""
        self.reached(-1)
        if self._waiting and (oldest := self._waiting[0][1]).done():
            oldest.result()

    async def settled(self) -> None:
        """Waits for all that were added until now. Raises what one failed with."""
        await asyncio.gather(*[ack for _, ack in self._waiting])


def _arrived(ack: asyncio.Future[object]) -> bool:
    return ack.done() and not ack.cancelled() and ack.exception() is None
