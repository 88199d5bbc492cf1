"""Hold back one request of a transactional producer, and deliver it in the middle of the next transaction."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections.abc import Callable

from tests.late.kinds import Kind, Moment
from tests.support.kafka.late_network import (
    END_TXN,
    TXN_OFFSET_COMMIT,
    HeldRequest,
    KafkaRequest,
    LateNetwork,
    of_an_old_generation,
)

_ORDER_S = 0.2  # requests that share a connection wait meanwhile, so that the answer may never come


class Lateness:
    """One late request of one producer; a gate of the network while it lasts.

    Between the repeated request's answer and the delivery, requests of the next transaction are kept in the
    order that the kind's moment needs. ``landed`` is set once the broker has answered the late request, and
    the process was killed if that is part of the kind.
    """

    def __init__(
        self,
        network: LateNetwork,
        transactional_id: str,
        kind: Kind,
        draw: random.Random,
        kill: Callable[[], None],
    ) -> None:
        self.landed = threading.Event()
        self.refused = False
        self._network, self._id, self._kind, self._kill = network, transactional_id, kind, kill
        self._pause_s = draw.uniform(0.005, 0.12)
        self._next = False  # the transaction after the one whose request is late
        self._sent: set[int] = set()  # in it, and while it lasts
        self._answered: set[int] = set()
        self._refuses_offsets = kind.held == "abort"
        self._delivers = self._delivered = False
        self._soon: asyncio.Task[None] | None = None
        self._held: HeldRequest = network.hold(self._is_to_be_late, cut=kind.cut)
        network.gate = self

    def end(self) -> None:
        """Let everything pass that still comes."""
        self._network.forget(self._held)
        self.landed.set()

    def _is_to_be_late(self, request: KafkaRequest) -> bool:
        wanted = {
            "commit": request.commits,
            "abort": request.aborts,
            "offsets": request.key == TXN_OFFSET_COMMIT,
        }
        return wanted[self._kind.held] and request.of(self._id)

    async def request(self, request: KafkaRequest) -> bytes:
        if self.landed.is_set() or not request.of(self._id):
            return request.frame
        if self._refuses_offsets and request.key == TXN_OFFSET_COMMIT:
            self._refuses_offsets = False
            return of_an_old_generation(request.frame)
        if self._next:
            await self._in_order(request.key)
            self._sent.add(request.key)
        return request.frame

    async def _in_order(self, key: int) -> None:
        """Return once this request may go in, and after the delivery if this is its moment."""
        if self._kind.at is Moment.SOON:
            return
        answered, goes_in = self._kind.at.value
        its_turn = key == goes_in and (answered != goes_in or goes_in in self._sent)
        if its_turn and await self._is_answered(answered):
            await self._deliver()
        elif key == END_TXN:  # this transaction had no such moment; perhaps the one after it has
            self._sent.clear()
            self._answered.clear()

    async def _is_answered(self, key: int) -> bool:
        """Wait for the answer to another request, which may not be coming."""
        until = time.monotonic() + _ORDER_S
        while key not in self._answered and time.monotonic() < until:
            await asyncio.sleep(0.001)
        return key in self._answered

    async def response(self, request: KafkaRequest, body: bytes) -> None:
        if self.landed.is_set() or not request.of(self._id):
            return
        if request.key == END_TXN and self._delivered:
            self._killed()
        elif self._next:
            self._answered.add(request.key)
        elif request.key == END_TXN and self._held.taken.is_set() and _error(body) == 0:
            self._next = True
            if self._kind.at is Moment.SOON:
                self._soon = asyncio.create_task(self._deliver_soon())

    async def _deliver_soon(self) -> None:
        await asyncio.sleep(self._pause_s)
        await self._deliver()

    async def _deliver(self) -> None:
        if self._delivers:
            return
        self._delivers = True
        body = await self._held.deliver_now()
        self.refused = (_last_error(body) if self._kind.held == "offsets" else _error(body)) != 0
        self._delivered = True
        if self._kind.kills == "at once":
            self._killed()
        elif not self._kind.kills:
            self.landed.set()

    def _killed(self) -> None:
        self._kill()
        self.landed.set()


def _error(body: bytes) -> int:
    """The error of an EndTxn (v1): after the time to throttle."""
    return struct.unpack_from(">4xh", body)[0]


def _last_error(body: bytes) -> int:
    """The error of a TxnOffsetCommit's (v3) last partition, after which only empty tags come."""
    return struct.unpack_from(">h", body, len(body) - 5)[0]
