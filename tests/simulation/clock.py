"""Virtual time: processes that take turns, and events between them; nothing here waits for a real clock.

A process is a thread, but only one runs at a time: one that waits runs what is due until it is its own
turn, or hands over to the process whose turn it is. So a run is a function of its seed.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import threading
from collections.abc import Callable

EPOCH_S = 1_700_000_000.0


class ProcessKilled(BaseException):
    """The process was killed: nothing it still does has an effect."""


class Process:
    """One process of the simulation. ``error``: what it ended with; None while it runs or if it stopped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.ended = False
        self.frozen_until = 0.0
        self.error: BaseException | None = None
        self.waits = 0  # wake-ups of an earlier wait are void
        self.turn = threading.Semaphore(0)


class VirtualWorld:
    """Time, its events, and the processes that live in it."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.current = Process("main")
        self.processes: list[Process] = []
        self._events: list[tuple[float, int, Callable[[], None] | Process, int]] = []
        self._made = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self.lines: list[str] | None = None

    # What happens

    def trace(self, line: str) -> None:
        """Note what happened: equal runs have equal traces. Kept as text if ``lines`` is a list."""
        text = f"{self.now:.6f} {line}"
        self._digest.update(text.encode())
        if self.lines is not None:
            self.lines.append(text)

    @property
    def fingerprint(self) -> str:
        return self._digest.hexdigest()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self._push(self.now + seconds, what, 0)

    def _push(self, at: float, what: Callable[[], None] | Process, waits: int) -> None:
        self._made += 1
        heapq.heappush(self._events, (at, self._made, what, waits))

    # Processes

    def spawn(self, name: str, work: Callable[[], None], ended: Callable[[Process], None]) -> Process:
        """Begin a process; ``ended`` is called once it is over, however."""
        process = Process(name)
        self.processes.append(process)

        def run() -> None:
            process.turn.acquire()
            try:
                if process.alive:
                    work()
            except ProcessKilled:
                pass
            except BaseException as error:  # noqa: BLE001  # ``ended`` reports it
                process.error = error
            process.ended = True
            process.alive = False
            self.trace(f"end {name} {type(process.error).__name__}")
            self.processes.remove(process)
            ended(process)
            self._hand_over(process)

        threading.Thread(target=run, name=name, daemon=True).start()
        self._push(self.now, process, process.waits)
        return process

    def kill(self, process: Process) -> None:
        if process.alive:
            self.trace(f"kill {process.name}")
            process.alive = False
            process.frozen_until = 0.0
            self.wake(process)

    def freeze(self, process: Process, seconds: float) -> None:
        """Stop the process and its clients for a while, as SIGSTOP does."""
        self.trace(f"freeze {process.name}")
        process.frozen_until = self.now + seconds

    def wake(self, process: Process) -> None:
        """Let it look again at what it waits for."""
        self._push(self.now, process, process.waits)

    def check(self) -> None:
        """Raise ProcessKilled in a process that was killed."""
        if not self.current.alive:
            raise ProcessKilled

    def wait(self, ready: Callable[[], object], seconds: float) -> bool:
        """Wait in the current process until ``ready`` or the time is over; return whether it is."""
        me = self.current
        until = self.now + max(0.0, seconds)
        self.check()
        if ready():
            return True
        me.waits += 1
        self._push(until, me, me.waits)
        try:
            while True:
                self._hand_over(me)
                self.check()
                if ready():
                    return True
                if self.now >= until:
                    return False
        finally:
            me.waits += 1

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def _hand_over(self, me: Process) -> None:
        """Run what is due until it is this process's turn; another one takes over when its turn is first."""
        while True:
            at, _, what, waits = heapq.heappop(self._events)
            self.now = max(self.now, at)
            if not isinstance(what, Process):
                what()
                continue
            if what.ended or waits != what.waits:
                continue
            if what.frozen_until > self.now:
                self._push(what.frozen_until, what, waits)
                continue
            if what is me:
                return
            self.current = what
            what.turn.release()
            if me.ended:
                return
            me.turn.acquire()
            self.current = me
            return

    def close(self) -> None:
        """Kill what still runs, and wait until it has ended."""
        for process in list(self.processes):
            self.kill(process)
        while self.processes:
            self.sleep(0.001)


class VirtualTime:
    """Stands in for the module ``time``."""

    def __init__(self, world: VirtualWorld) -> None:
        self._world = world

    def monotonic(self) -> float:
        return self._world.now

    perf_counter = monotonic

    def time(self) -> float:
        return EPOCH_S + self._world.now

    def time_ns(self) -> int:
        return int(self.time() * 1e9)

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)
