"""Requests on their way: in order on each connection, delayed, lost, or late after their connection was cut.

TCP repeats nothing, so nothing is repeated here either. A request is seen twice where its client sends it
again over a new connection while the first copy is still on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.clock import Process, VirtualWorld


class Lost:
    """In place of a response: the connection failed, or the time for it was over."""

    def __init__(self, *, timed_out: bool) -> None:
        self.timed_out = timed_out


@dataclass
class Weather:
    """How likely each fault is, for one request. ``calm_at``: from then on there is none."""

    cut: float = 0.0
    stall: float = 0.0
    slow: float = 0.0
    calm_at: float = 0.0


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
        self._network, self._world, self._process, self._name = network, network.world, process, name
        self._report, self._timeout_s = report, timeout_s
        self._number = 0  # of the connection
        self._free_at = 0.0
        self._sharing: list[Callable[..., None]] = []

    def request(self, api: str, handle: Callable[[], Any], reply: Callable[[Any], None]) -> None:
        """Deliver ``handle`` to the broker and what it returns to ``reply``; Lost if that fails."""
        world, network, rng = self._world, self._network, self._world.rng
        weather = network.weather
        if world.now < network.down_until:
            world.after(0.1, lambda: reply(Lost(timed_out=False)) if self._process.alive else None)
            return
        number, answered = self._number, [False]
        windy = world.now < weather.calm_at
        kind = rng.random() if windy else 1.0
        delay = network.latency()
        cut_s: float | None = None
        arrives = True
        if kind < weather.cut:
            # Before it arrives, or before the response does; what is under way may arrive much later.
            network.faults += 1
            cut_s = rng.uniform(0.0, 0.004)
            late = rng.random()
            arrives = late > 0.25
            if late > 0.5:
                delay = cut_s + rng.choice((0.006, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0)) * rng.uniform(
                    0.5, 1.5
                )
        elif kind < weather.cut + weather.stall:
            network.faults += 1
            delay = rng.choice((0.5, 3.0, 11.0, 14.0)) * rng.uniform(0.8, 1.2)
        elif kind < weather.cut + weather.stall + weather.slow:
            delay = rng.uniform(0.005, 0.2)
        at = max(world.now + delay, self._free_at)
        if cut_s is None:
            self._free_at = at
        world.trace(f"{self._process.name} {self._name}#{number} {api} {delay:.6f} {cut_s} {arrives}")

        def answer(value: Any) -> None:
            if not answered[0] and self._process.alive:
                answered[0] = True
                wait_s = self._process.frozen_until - world.now
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
            if answered[0] or not self._process.alive:
                return
            if number == self._number:
                self._number += 1
                self._free_at = 0.0
                if timed_out:
                    self._report(f"REQTMOUT|{self._process.name}| [thrd:x]: Timed out {api} in flight")
                self._report(f"FAIL|{self._process.name}| [thrd:x]: Disconnected (after 10ms in state UP)")
            answer(Lost(timed_out=timed_out))
            sharing, self._sharing = self._sharing, []
            for other in sharing:
                other(timed_out=False)

        if arrives:
            world.after(at - world.now, arrive)
        if cut_s is not None:
            world.after(cut_s, lambda: fail(timed_out=False))
        world.after(self._timeout_s, lambda: fail(timed_out=True))
        self._sharing.append(fail)
        if len(self._sharing) > 8:
            del self._sharing[0]
