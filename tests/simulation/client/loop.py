"""An asyncio event loop in virtual time: where it would wait for sockets, it waits in the simulation."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from tests.simulation.clock import VirtualWorld


class _VirtualSelector(selectors.SelectSelector):
    def __init__(self, world: VirtualWorld) -> None:
        super().__init__()
        self._world = world
        self.posted = False

    def select(self, timeout: float | None = None) -> list[Any]:
        self._world.wait(lambda: self.posted, 1e6 if timeout is None else timeout)
        self.posted = False
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, world: VirtualWorld) -> None:
        self._world = world
        self._virtual = _VirtualSelector(world)
        self._process = world.current
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._world.now

    def post(self, callback: Callable[[], object]) -> None:
        """Call back within the loop, from an event of the simulation."""
        if not self.is_closed():
            self.call_soon(callback)
            self._virtual.posted = True
            self._world.wake(self._process)


def run(world: VirtualWorld, main: Callable[[VirtualLoop], Any]) -> None:
    """Run a coroutine in the current process until it ends, or the process is killed."""
    loop = VirtualLoop(world)
    try:
        loop.run_until_complete(main(loop))
    finally:
        if world.current.alive:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
