"""Faults of the network before a broker: what a gate does to requests and answers while a fault lasts."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from tests.support.kafka.late_network import KafkaRequest, LateNetwork

_BETWEEN_HELD_S = 0.5  # a client needs some time in between, or it gets nowhere at all


class FaultyGate:
    """Lets everything pass unless told otherwise. Call its methods from any thread; ``heal`` ends a fault."""

    def __init__(self, network: LateNetwork, chance: random.Random) -> None:
        self.network, self._chance = network, chance
        self._stops_requests = self._stops_answers = False
        self._delay_s = self._late_s = 0.0
        self._late_key: int | None = None
        self._next_held = 0.0
        self._deliveries: set[asyncio.Task[None]] = set()
        self._healed = asyncio.Event()
        self.held: list[KafkaRequest] = []
        network.gate = self

    def stop(self, *, requests: bool = False, answers: bool = False) -> None:
        """Keep back everything in these directions."""
        self._stops_requests, self._stops_answers = requests, answers

    def delay(self, most_s: float) -> None:
        """Let each frame wait for up to so long, in both directions, with those behind it."""
        self._delay_s = most_s

    def hold(self, key: int, late_s: float) -> None:
        """Cut the connection on which such a request comes, and deliver the request up to so much later."""
        self._late_key, self._late_s = key, late_s

    def heal(self, *, cut: bool) -> None:
        """Let all pass again. ``cut``: and what was kept back never arrives."""
        self._stops_requests = self._stops_answers = False
        self._delay_s, self._late_key = 0.0, None
        if cut:
            self.network.cut()
        self.network.loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        self._healed.set()
        self._healed = asyncio.Event()

    async def request(self, request: KafkaRequest) -> bytes:
        if request.key == self._late_key and (now := self.network.loop.time()) >= self._next_held:
            self._next_held = now + self._late_s + _BETWEEN_HELD_S
            self.held.append(request)
            delivery = asyncio.create_task(self._deliver(request, self._chance.uniform(0.0, self._late_s)))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)
            raise ConnectionResetError
        await self._wait(self._stops_requests)
        return request.frame

    async def response(self, request: KafkaRequest, body: bytes) -> None:
        await self._wait(self._stops_answers)

    async def _wait(self, stopped: bool) -> None:
        if stopped:
            await self._healed.wait()
        elif self._delay_s:
            await asyncio.sleep(self._chance.uniform(0.0, self._delay_s))

    async def _deliver(self, request: KafkaRequest, after_s: float) -> None:
        await asyncio.sleep(after_s)
        with suppress(OSError, asyncio.IncompleteReadError):  # its broker is just away
            await self.network.send(request)
