"""One run of the monitor: a vitals partition, owners that are killed, frozen and replaced, and a bad network.

The shell, its snapshots and the real core run as they are. Faust does not: what it delivers (in order, with
gaps and repeats, to an owner that may not know yet that it lost the partition) is simulated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import ClassVar
from unittest import mock

from driftloop.schemas.control import RequestControl, SpecControl, TickControl
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.topics import DEAD_LETTERS, DRIFT, MONITOR_STATE, TRIGGERS, VITALS, Topic
from driftloop.streams.monitor.core import VitalsCore
from driftloop.streams.monitor.partition import LinkedMessage
from driftloop.streams.monitor.shell import MonitorSettings, MonitorShell
from driftloop.streams.monitor.snapshots import find_resume_point
from faust.types import TP

from tests.simulation.broker.log import OK, PartitionLog, SentRecord
from tests.simulation.client.installed import installed
from tests.simulation.client.loop import VirtualLoop, run
from tests.simulation.client.operation import Operation
from tests.simulation.client.simulated import Simulation
from tests.simulation.clock import Process
from tests.simulation.findings import check_monitor
from tests.simulation.network import Link, Weather
from tests.simulation.run import CONNECTION, RoleRun, SimulatedRun

FAULTS_S = 8.0
_END_S = 20.0
_BACKOFF_S = 0.1
_TOPICS = (VITALS, MONITOR_STATE, DRIFT, TRIGGERS, DEAD_LETTERS)
_PLACE = TP(CONNECTION.topic(VITALS), 0)


def simulate_monitor(seed: int, *, lines: bool = False) -> SimulatedRun:
    """Run the monitor with the faults of a seed, and check what it wrote."""
    return _MonitorRun(seed, lines=lines).run()


class _Client:
    """Sends as an idempotent producer: again until it is acknowledged, each record once, in order."""

    def __init__(self, simulation: Simulation, loop: VirtualLoop) -> None:
        self._simulation, self._loop = simulation, loop
        self._process = simulation.world.current
        self._link = Link(simulation.network, self._process, "data", lambda _line: None, timeout_s=5.0)
        self._queue: list[tuple[str, PartitionLog, SentRecord, asyncio.Future[object]]] = []
        self._sending = False
        self.sought: int | None = None

    async def send(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None
    ) -> Awaitable[object]:
        acknowledged: asyncio.Future[object] = self._loop.create_future()
        log = self._simulation.cluster.logs[topic, partition or 0]
        self._queue.append((topic, log, SentRecord(key, value), acknowledged))
        self._next()
        return acknowledged

    async def seek(self, tp: TP, offset: int) -> None:
        self.sought = offset

    def _next(self) -> None:
        if self._sending or not self._queue:
            return
        self._sending = True
        topic, log, sent, acknowledged = self._queue.pop(0)
        appended = False

        def handle() -> int:
            nonlocal appended
            if not appended:
                appended = True
                log.append([sent])
            return OK

        def answered(_answer: object) -> None:
            self._sending = False
            self._loop.post(lambda: acknowledged.done() or acknowledged.set_result(None))
            self._next()

        Operation(
            self._link,
            f"Produce {topic}",
            handle,
            answered,
            wanted=lambda: self._process.alive,
            backoff_s=_BACKOFF_S,
        )


class _MonitorRun(RoleRun):
    role = "monitor"
    topics: ClassVar[dict[Topic, int]] = dict.fromkeys(_TOPICS, 1)

    def __init__(self, seed: int, *, lines: bool) -> None:
        super().__init__(seed, lines=lines)
        self.owner: Process | None = None
        self.stopping: set[Process] = set()
        self.vitals = self.log(VITALS)

    def weather(self) -> Weather:
        return Weather(cut=self.rng.choice((0.0, 0.05, 0.2)), stall=0.01, slow=0.3, calm_at=FAULTS_S)

    def run(self) -> SimulatedRun:
        async def inline(function, *arguments, **options):
            return function(*arguments, **options)

        with installed(self.simulation, {}), mock.patch.object(asyncio, "to_thread", inline):
            for at, value in self._history():
                self.world.after(at, lambda value=value: self.vitals.append([SentRecord(None, value)]))
            self._start()
            for _ in range(self.rng.choice((0, 1, 3, 5))):
                self.world.after(self.rng.uniform(0.3, FAULTS_S), self._fault)
            self.world.sleep(_END_S)
            self.world.close()
        return self.came_to(check_monitor(self.simulation, CONNECTION, self.findings))

    def _history(self) -> list[tuple[float, bytes]]:
        rng = self.rng
        spec = ModelSpec().model_dump(mode="json")
        records = [(0.05, SpecControl(model="m", digest="0" * 64, spec=spec, ts=1).encode())]
        for number in range(rng.choice((10, 30))):
            bad = b"not vitals %d" % number
            asked = RequestControl(model="m", command_id=f"c{number}", by="me", why="so", ts=number).encode()
            records.append((rng.uniform(0.1, 9.0), rng.choice((bad, asked, TickControl().encode()))))
        return records

    def _start(self) -> None:
        if self.owner is None and self.world.now < _END_S - 1:
            number = len(self.faults) + self.world.rng.randrange(10**6)
            self.owner = self.world.spawn(f"monitor-{number}", self._work, self._ended)

    def _work(self) -> None:
        process = self.world.current
        run(self.world, lambda loop: self._monitor(loop, process))

    async def _monitor(self, loop: VirtualLoop, process: Process) -> None:
        rng, world = self.rng, self.world
        settings = MonitorSettings(
            snapshot_records=rng.choice((1, 3)), snapshot_min_s=0.0, snapshot_max_s=2.0, idle_tick_s=4.0
        )
        shell = MonitorShell(CONNECTION, VitalsCore, VitalsCore.restore, settings, find=find_resume_point)
        client = shell.client = _Client(self.simulation, loop)
        position = (await shell.resume_at(frozenset({_PLACE})))[_PLACE]
        previous, kept_at, rereading = position - 1, world.now, False
        while process not in self.stopping:
            if client.sought is not None:
                position, previous, client.sought = client.sought, client.sought - 1, None
                rereading = True
            entry = next(self.vitals.read(position), None)
            if entry is not None:
                assert entry.sent is not None
                message = LinkedMessage(
                    _PLACE.topic,
                    0,
                    entry.offset,
                    entry.append_ms / 1000,
                    1,
                    None,
                    None,
                    entry.sent.value,
                    None,
                )
                message.previous, previous, position = previous, entry.offset, entry.offset + 1
                # What Faust drops, as at a rebalance, it does not drop again while that is read again.
                if rereading or world.now > FAULTS_S or rng.random() > 0.05:
                    rereading = False
                    await shell.on_message(message)
            else:
                await asyncio.sleep(0.1)
            if world.now - kept_at > 1.0:
                kept_at = world.now
                await shell.keep_time()
        await shell.release_all()

    def _ended(self, process: Process) -> None:
        self.note_end(process)
        if self.owner is process:
            self.owner = None
            self.world.after(self.rng.choice((0.05, 1.0)), self._start)

    def _fault(self) -> None:
        owner = self.owner
        if owner is None:
            return
        kind = self.rng.choice(("kill", "kill", "stop", "freeze", "replace"))
        self.faults[kind] += 1
        if kind == "kill":
            self.world.kill(owner)
        elif kind == "stop":
            self.stopping.add(owner)
        elif kind == "freeze":
            self.world.freeze(owner, self.rng.choice((0.3, 2.0)))
        else:  # it learns of that only later
            self.owner = None
            self._start()
            self.world.after(self.rng.choice((0.5, 2.0)), lambda: self.stopping.add(owner))
