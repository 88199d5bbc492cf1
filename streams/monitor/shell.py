"""What connects the monitor's cores with Kafka: one core per vitals partition, its events and snapshots.

For each vitals record, in this order (what happens if the process dies after each step):

1. the core applies it in memory            - nothing was written: it is applied again after the restart;
2. its events are sent                      - they are sent again, the same bytes with the same ids;
3. the broker acknowledges them             - as 2;
4. when due, a snapshot with its offset     - the restart resumes after this record.

The next record does not wait for 3 and 4: a snapshot is taken at once, and written when all events before it
are acknowledged; progress is published up to the first that is not.

On failure: an exception leaves the partition's core unusable, so it is dropped and the error crashes the
process. A failed delivery or snapshot is noticed at the next record, or within a second. No progress is
published past a record that was not applied.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from faust.types import TP

from ...schemas.control import TickControl
from ...schemas.dead_letters import dead_letter
from ...schemas.errors import StateError
from ...schemas.topics import DEAD_LETTERS, MONITOR_STATE, VITALS
from ..kafka.connection import Connection
from .core import Emitted
from .partition import Core, LinkedMessage, OwnedPartition
from .snapshots import SLOTS, ResumePoint, Snapshot, encode_snapshot, find_resume_point

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """When snapshots and ticks are written. Times in seconds.

    A snapshot is due ``snapshot_records`` records after the last one, but not within ``snapshot_min_s`` of
    it, and at the latest after ``snapshot_max_s``. ``idle_tick_s`` None: no ticks (event-time clock).
    """

    snapshot_records: int = 200
    snapshot_min_s: float = 2.0
    snapshot_max_s: float = 30.0
    idle_tick_s: float | None = 30.0
    progress_s: float = 0.25
    session_s: float = 10.0
    revoke_s: float = 3.0
    stop_s: float = 4.5


class KafkaClient(Protocol):
    """What the shell needs of a Kafka client."""

    async def send(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None
    ) -> Awaitable[object]:
        """Hand a record over; the returned awaitable ends when the broker has acknowledged it."""
        ...

    async def seek(self, tp: TP, offset: int) -> None:
        """Read ``tp`` from ``offset`` on."""
        ...


class MonitorShell:
    """Keeps a core per owned vitals partition and carries its events out. Runs in one event loop.

    ``client`` must be set before anything is applied.
    """

    client: KafkaClient

    def __init__(
        self,
        connection: Connection,
        make_core: Callable[[int], Core],
        restore_core: Callable[[bytes], Core],
        settings: MonitorSettings,
        *,
        find: Callable[[Connection, int], ResumePoint] = find_resume_point,
    ) -> None:
        self._connection = connection
        self._make_core = make_core
        self._restore_core = restore_core
        self._settings = settings
        self._find = find
        self._owned: dict[TP, OwnedPartition] = {}
        self._released: dict[TP, int] = {}  # the last offsets of those given up: still to be published
        self._resuming = asyncio.Lock()  # Faust may seek from two tasks at once

    # --- positions -------------------------------------------------------------------------------------

    async def resume_at(self, assigned: frozenset[TP]) -> Mapping[TP, int]:
        """Restore partitions that are new, drop those that are gone, and return where to read on."""
        async with self._resuming:
            for tp in [tp for tp in self._owned if tp not in assigned]:
                del self._owned[tp]
            self._released.clear()
            new = sorted(tp for tp in assigned if tp not in self._owned)
            points = await asyncio.gather(
                *(asyncio.to_thread(self._find, self._connection, tp.partition) for tp in new)
            )
            for tp, point in zip(new, points, strict=True):
                self._owned[tp] = await self._restore(tp, point)
            for owned in self._owned.values():
                owned.rereading = False
            return {tp: self._owned[tp].cursor + 1 for tp in assigned}

    def applied(self) -> Mapping[TP, int]:
        return self._released | {tp: owned.acknowledged for tp, owned in self._owned.items()}

    async def _restore(self, tp: TP, point: ResumePoint) -> OwnedPartition:
        start, slot, core = point.start, 0, None
        if point.snapshot is not None:
            slot = (point.snapshot.slot + 1) % SLOTS
            try:
                core = self._restore_core(point.snapshot.data)
            except StateError:
                log.exception("%s: the snapshot cannot be read; vitals is replayed from its beginning", tp)
                start = point.low
        if core is None:
            core = self._make_core(tp.partition)
        elif point.lost is not None:
            await self._report_loss(tp, point.lost)
        log.info("%s[%d] resumes at offset %d (state at %d)", *tp, start, core.applied_offset)
        now = time.monotonic()
        return OwnedPartition(core, start - 1, slot, snapshot_at=now, received_at=now)

    async def _report_loss(self, tp: TP, lost: range) -> None:
        reason = f"retention removed offsets {lost.start} to {lost[-1]} before the monitor had read them"
        letter = dead_letter("monitor", VITALS.name, tp.partition, lost.start, reason, lost=True)
        await asyncio.gather(*await self._send([Emitted(DEAD_LETTERS, b"", letter.encode())]))

    async def release(self, partitions: frozenset[TP]) -> None:
        """Give partitions up: wait for what is in flight and write a last snapshot, within ``revoke_s``."""
        owned = [(tp, self._owned.pop(tp)) for tp in partitions if tp in self._owned]
        try:
            async with asyncio.timeout(self._settings.revoke_s):
                for tp, partition in owned:
                    async with partition.lock:
                        await partition.deliveries.settled()
                        self._released[tp] = partition.cursor
                        if partition.saving is not None:
                            await partition.saving
                        if (saving := self._save(tp, partition)) is not None:
                            await saving
        except TimeoutError:
            log.warning("no last snapshot within %g s: the next owner replays more", self._settings.revoke_s)

    async def release_all(self) -> None:
        await self.release(frozenset(self._owned))

    # --- records ---------------------------------------------------------------------------------------

    async def on_message(self, message: LinkedMessage) -> None:
        """Apply one record and send its events; drop it if it was applied before."""
        tp = message.tp
        owned = self._owned.get(tp)
        if owned is None:
            return  # buffered from before a rebalance
        async with owned.lock:
            if self._owned.get(tp) is not owned or message.offset <= owned.cursor:
                return
            if message.previous > owned.cursor:
                await self._reread(tp, owned, message)
                return
            try:
                owned.check()
                await self._apply(owned, message)
            except BaseException:
                owned.broken = True
                if self._owned.get(tp) is owned:
                    del self._owned[tp]
                raise
            if self._due(owned):
                self._save(tp, owned)

    async def _apply(self, owned: OwnedPartition, message: LinkedMessage) -> None:
        append_ms = round(message.timestamp * 1000)
        events = owned.core.apply(message.value or b"", offset=message.offset, append_time_ms=append_ms)
        if owned.core.applied_offset != message.offset:
            raise StateError(
                f"the monitor's core is at {owned.core.applied_offset} after offset {message.offset}"
            )
        acks = await self._send(events)
        owned.cursor = message.offset
        owned.deliveries.add(message.offset, acks)
        owned.unsaved += 1
        owned.rereading = False
        owned.received_at = time.monotonic()

    async def _reread(self, tp: TP, owned: OwnedPartition, message: LinkedMessage) -> None:
        if owned.rereading:
            return
        log.warning(
            "%s[%d]: offset %d arrived without %d, which was read before it: reading again from %d",
            *tp,
            message.offset,
            message.previous,
            owned.cursor + 1,
        )
        owned.rereading = True
        await self.client.seek(tp, owned.cursor + 1)

    async def _send(self, events: list[Emitted]) -> list[Awaitable[object]]:
        acks: list[Awaitable[object]] = []
        for event in events:
            name = self._connection.topic(event.topic)
            partition = None if event.key else 0
            acks.append(await self.client.send(name, event.key or None, event.value, partition))
        return acks

    # --- snapshots and time ----------------------------------------------------------------------------

    def _due(self, owned: OwnedPartition) -> bool:
        if owned.unsaved == 0 or owned.saving is not None:
            return False
        age = time.monotonic() - owned.snapshot_at
        settings = self._settings
        many = owned.unsaved >= settings.snapshot_records and age >= settings.snapshot_min_s
        return many or age >= settings.snapshot_max_s

    def _save(self, tp: TP, owned: OwnedPartition) -> asyncio.Task[None] | None:
        """Take a snapshot and start writing it. The caller holds the lock, and none is being written."""
        if owned.unsaved == 0 or owned.broken:
            return None
        snapshot = Snapshot(owned.cursor, owned.core.snapshot(), owned.slot)
        owned.unsaved = 0
        owned.snapshot_at = time.monotonic()
        owned.saving = asyncio.create_task(self._write(tp, owned, snapshot))
        return owned.saving

    async def _write(self, tp: TP, owned: OwnedPartition, snapshot: Snapshot) -> None:
        topic = self._connection.topic(MONITOR_STATE)
        chunks = await asyncio.to_thread(encode_snapshot, snapshot, partition=tp.partition)
        await owned.deliveries.settled()
        acks = [await self.client.send(topic, key, value, tp.partition) for key, value in chunks]
        await asyncio.gather(*acks)
        owned.slot = (owned.slot + 1) % SLOTS

    async def keep_time(self) -> None:
        """Write the snapshots and ticks that are due; called about once a second."""
        for tp, owned in list(self._owned.items()):
            owned.check()
            if owned.lock.locked():
                continue  # a record is being applied: neither idle nor saveable
            async with owned.lock:
                if self._due(owned):
                    self._save(tp, owned)
            idle = self._settings.idle_tick_s
            if idle is not None and time.monotonic() - owned.received_at >= idle:
                owned.received_at = time.monotonic()
                await (await self.client.send(tp.topic, None, TickControl().encode(), tp.partition))
