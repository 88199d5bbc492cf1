"""Requests on their way: in order on each connection, delayed, lost, or late after their connection was cut.

TCP repeats nothing, so nothing is repeated here either. A request is seen twice where its client sends it
again over a new connection while the first copy is still on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.simulation.clock import Process, VirtualWorld

LOST = object()  # in place of a response: the connection failed, or the time for it was over


@dataclass(frozen=True)
class Weather:
    """How likely each fault is, for one request. ``calm_at``: from then on there is none."""

    cut: float
    stall: float
    slow: float
    calm_at: float


class _Passage(NamedTuple):
    """When a request arrives, if it does. ``cut_s``: when its connection fails; None: it does not."""

    delay_s: float
    cut_s: float | None = None
    arrives: bool = True


class Network:
    def __init__(self, world: VirtualWorld, weather: Weather) -> None:
        self.world, self.weather = world, weather
        self.faults = 0
        self.down_until = 0.0  # nobody is reached

    def latency(self) -> float:
        return self.world.rng.uniform(0.0004, 0.002)


class Link:
    """One connection of a client, made again after it has failed. ``report``: takes a line of the log."""

    def __init__(
        self,
        network: Network,
        process: Process,
        name: str,
        report: Callable[[str], None],
        *,
        timeout_s: float,
    ) -> None:
        self._network, self._process, self._name = network, process, name
        self.world = network.world
        self._report, self._timeout_s = report, timeout_s
        self._number = 0  # of the connection
        self._free_at = 0.0
        self._sharing: deque[Callable[..., None]] = deque(maxlen=8)  # failures of requests on their way

    def request(self, api: str, handle: Callable[[], Any], reply: Callable[[Any], None]) -> None:
        """Deliver ``handle`` to the broker and what it returns to ``reply``; LOST if that fails."""
        world, network, process = self.world, self._network, self._process
        if world.now < network.down_until:
            world.after(0.1, lambda: reply(LOST) if process.alive else None)
            return
        delay_s, cut_s, arrives = self._passage()
        at = max(world.now + delay_s, self._free_at)
        if cut_s is None:
            self._free_at = at
        number, answered = self._number, False
        world.trace(f"{process.name} {self._name}#{number} {api} {delay_s:.6f} {cut_s} {arrives}")

        def answer(value: Any) -> None:
            nonlocal answered
            if not answered and process.alive:
                answered = True
                wait_s = process.frozen_until - world.now
                if wait_s > 0:
                    world.after(wait_s, lambda: reply(value))
                else:
                    reply(value)

        def arrive() -> None:
            value = handle()
            world.trace(f"broker {api} {value!r}")
            if number == self._number and cut_s is None:
                world.after(network.latency(), lambda: answer(value) if number == self._number else None)

        def fail(*, timed_out: bool) -> None:
            if answered or not process.alive:
                return
            if number == self._number:
                self._number += 1
                self._free_at = 0.0
                if timed_out:
                    self._report(f"REQTMOUT|{process.name}| [thrd:x]: Timed out {api} in flight")
                self._report(f"FAIL|{process.name}| [thrd:x]: Disconnected (after 10ms in state UP)")
            answer(LOST)
            sharing = list(self._sharing)
            self._sharing.clear()
            for other in sharing:
                other(timed_out=False)

        if arrives:
            world.after(at - world.now, arrive)
        if cut_s is not None:
            world.after(cut_s, lambda: fail(timed_out=False))
        world.after(self._timeout_s, lambda: fail(timed_out=True))
        self._sharing.append(fail)

    def _passage(self) -> _Passage:
        """Draw what happens to one request. One whose connection is cut may still arrive, much later."""
        network, weather, rng = self._network, self._network.weather, self.world.rng
        kind = rng.random() if self.world.now < weather.calm_at else 1.0
        delay_s = network.latency()
        if kind < weather.cut:
            network.faults += 1
            cut_s, late = rng.uniform(0.0, 0.004), rng.random()
            if late > 0.5:
                late_s = rng.choice((0.006, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0))
                delay_s = cut_s + late_s * rng.uniform(0.5, 1.5)
            return _Passage(delay_s, cut_s, late > 0.25)
        if kind < weather.cut + weather.stall:
            network.faults += 1
            delay_s = rng.choice((0.5, 3.0, 11.0, 14.0)) * rng.uniform(0.8, 1.2)
        elif kind < weather.cut + weather.stall + weather.slow:
            delay_s = rng.uniform(0.005, 0.2)
        return _Passage(delay_s)
