"""One vitals partition while it is ours: its core, the events on their way to Kafka, and its snapshots."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from faust.types import ConsumerMessage

from .core import Emitted


class LinkedMessage(ConsumerMessage):
    """A message that knows which offset was read just before it."""

    __slots__ = ("previous",)
    previous: int


class Core(Protocol):
    """What is kept per vitals partition (see VitalsCore): a pure function of the records applied."""

    @property
    def applied_offset(self) -> int: ...

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]: ...

    def snapshot(self) -> bytes: ...


class Deliveries:
    """Events without an acknowledgement yet, each with the offset of the record that caused it, in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[object]]] = deque()

    def add(self, offset: int, acks: Iterable[Awaitable[object]]) -> None:
        self._waiting.extend((offset, asyncio.ensure_future(ack)) for ack in acks)

    def reached(self, applied: int) -> int:
        """Return the offset up to which everything is acknowledged, if all up to ``applied`` is applied."""
        while self._waiting and _arrived(self._waiting[0][1]):
            self._waiting.popleft()
        return self._waiting[0][0] - 1 if self._waiting else applied

    def check(self) -> None:
        """Raise the error of the oldest event that did not arrive, if it failed."""
        self.reached(-1)
        if self._waiting and (oldest := self._waiting[0][1]).done():
            oldest.result()

    async def settled(self) -> None:
        """Wait for all that were added until now. Raises the error of one that failed."""
        await asyncio.gather(*[ack for _, ack in self._waiting])


def _arrived(ack: asyncio.Future[object]) -> bool:
    return ack.done() and not ack.cancelled() and ack.exception() is None


@dataclass(slots=True)
class OwnedPartition:
    """``lock`` is held from applying a record to handing its events over."""

    core: Core
    cursor: int  # everything up to this offset is applied, or never existed
    slot: int
    snapshot_at: float  # when the last one was taken, and a record came: on the monotonic clock
    received_at: float
    unsaved: int = 0
    rereading: bool = False
    broken: bool = False  # the core failed or was interrupted: it must not be used or saved again
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    deliveries: Deliveries = field(default_factory=Deliveries)
    saving: asyncio.Task[None] | None = None

    @property
    def acknowledged(self) -> int:
        """Everything up to this offset is applied, and its events have arrived."""
        return self.deliveries.reached(self.cursor)

    def check(self) -> None:
        """Raise the error of a delivery or a snapshot that failed in the background."""
        self.deliveries.check()
        if self.saving is not None and self.saving.done():
            self.saving.result()
            self.saving = None
