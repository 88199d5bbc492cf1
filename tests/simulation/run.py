"""One run of a role: its world, its instances and their faults, and what the run came to."""

from __future__ import annotations

import random
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from driftloop.schemas.errors import Error
from driftloop.schemas.topics import Topic
from driftloop.streams.kafka.connection import Connection

from tests.simulation.broker.cluster import SimulatedCluster
from tests.simulation.broker.log import PartitionLog
from tests.simulation.broker.transactions import Place
from tests.simulation.client.simulated import Simulation
from tests.simulation.clock import Process, VirtualWorld
from tests.simulation.findings import RunFindings
from tests.simulation.network import Network, Weather

CONNECTION = Connection("simulated:1", "s.")


@dataclass
class SimulatedRun:
    """``results``: how many the role had to write. ``lines``: all that happened, if it was asked for."""

    seed: int
    findings: RunFindings
    fingerprint: str
    results: int
    faults: Counter[str] = field(default_factory=Counter[str])
    lines: list[str] = field(default_factory=list[str])


class RoleRun(ABC):
    """What the run of every role has. ``topics``: with their numbers of partitions."""

    role: str
    topics: Mapping[Topic, int]

    def __init__(self, seed: int, *, lines: bool) -> None:
        self.seed = seed
        self.rng = random.Random(f"{self.role} {seed}")
        self.world = VirtualWorld(seed)
        self.world.lines = [] if lines else None
        self.network = Network(self.world, self.weather())
        self.cluster = SimulatedCluster(
            self.world, {CONNECTION.topic(topic): count for topic, count in self.topics.items()}
        )
        self.simulation = Simulation(self.world, self.network, self.cluster, stalls=self.stalls())
        self.faults: Counter[str] = Counter()
        self.findings = RunFindings()

    @abstractmethod
    def weather(self) -> Weather:
        """Draw how bad the network is."""

    def stalls(self) -> float:
        """Draw how likely a partition waits at its consumer."""
        return 0.0

    def log(self, topic: Topic, number: int = 0) -> PartitionLog:
        return self.cluster.logs[CONNECTION.topic(topic), number]

    def note_end(self, process: Process) -> None:
        """Count the error that ended a process; any but the project's own is a crash."""
        if process.error is not None:
            self.faults[type(process.error).__name__] += 1
            if not isinstance(process.error, Error):
                self.findings.add("crash", "".join(traceback.format_exception(process.error)))

    def came_to(self, results: int) -> SimulatedRun:
        self.faults["requests"] = self.network.faults
        return SimulatedRun(
            self.seed,
            self.findings,
            self.world.fingerprint,
            results,
            self.faults,
            self.world.lines or [],
        )


class GroupRun(RoleRun):
    """A run of a role with one or two instances in a group, each started again when it has ended.

    ``inputs``: what the group reads to its end. ``kinds``: of faults. ``frozen_s``: how long one may freeze.
    """

    group: str
    inputs: Sequence[tuple[Topic, int]]
    kinds: Sequence[str]
    frozen_s: Sequence[float]
    faults_s = 9.0
    longest_s: float

    def __init__(self, seed: int, *, lines: bool) -> None:
        super().__init__(seed, lines=lines)
        self.running: dict[str, Process] = {}
        self.wanted: set[str] = set()

    @abstractmethod
    def work_of(self, name: str) -> Callable[[], None]:
        """What one instance does, as a process."""

    def begin(self, first: str, second: str, faults: Sequence[int]) -> None:
        """Start an instance, perhaps another one later, and plan one of these numbers of faults."""
        self.start(first)
        if self.rng.random() < 0.4:
            self.world.after(self.rng.uniform(0.0, 4.0), lambda: self.start(second))
        for _ in range(self.rng.choice(faults)):
            self.world.after(self.rng.uniform(0.3, self.faults_s), self._fault)

    def start(self, name: str) -> None:
        """Start an instance unless it runs, and whenever it has ended."""
        self.wanted.add(name)
        if name not in self.running:
            work = self.work_of(name)
            self.running[name] = self.world.spawn(name, work, lambda process: self._ended(name, process))

    def start_all(self) -> None:
        for name in sorted(self.wanted):
            self.start(name)

    def _ended(self, name: str, process: Process) -> None:
        if self.running.get(name) is process:
            del self.running[name]
        self.note_end(process)
        if name in self.wanted and self.world.now < self.longest_s:
            self.world.after(self.rng.choice((0.1, 1.0)), lambda: self.start(name))

    def _fault(self) -> None:
        if self.running:
            name, kind = self.rng.choice(sorted(self.running)), self.rng.choice(self.kinds)
            self.faults[kind] += 1
            self.strike(name, kind)

    def strike(self, name: str, kind: str) -> None:
        """Do to a running instance what all roles must bear."""
        if kind == "kill":
            self.world.kill(self.running[name])
        elif kind == "freeze":
            self.world.freeze(self.running[name], self.rng.choice(self.frozen_s))
        elif kind == "outage":
            self.network.down_until = self.world.now + self.rng.choice((1.0, 6.0, 13.0))
        else:
            raise ValueError(f"no such fault: {kind}")

    def behind(self) -> dict[Place, tuple[int, int]]:
        """Where the group has not committed the end of its input: what it has, and the end."""
        offsets = self.cluster.group(CONNECTION.group(self.group)).offsets
        found: dict[Place, tuple[int, int]] = {}
        for topic, number in self.inputs:
            place, end = (CONNECTION.topic(topic), number), self.log(topic, number).end
            committed = offsets[place].offset if place in offsets else 0
            if committed != end:
                found[place] = committed, end
        return found
