"""One run of the joiner: a short history of predictions and labels, one or two joiners, and many faults."""

from __future__ import annotations

import itertools
import random
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import orjson
import rocksdict
from confluent_kafka import TopicPartition
from driftloop.schemas.errors import Error
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.model import JOIN_KEY, Join, ModelSpec, SpecRecord
from driftloop.schemas.topics import (
    DEAD_LETTERS,
    JOIN_PROGRESS,
    LABELS,
    OUTCOMES,
    PREDICTIONS,
    SPECS,
    VITALS,
    Topic,
)
from driftloop.streams.join import shell
from driftloop.streams.join.committed import position_of
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.state.store import RocksStore
from driftloop.streams.kafka import stop_deadline
from driftloop.streams.kafka.connection import Connection

from tests.simulation.broker.cluster import SimulatedCluster
from tests.simulation.broker.group import NEVER
from tests.simulation.broker.log import SentRecord
from tests.simulation.client.installed import installed
from tests.simulation.client.simulated import Simulation
from tests.simulation.clock import Process, ProcessKilled, VirtualWorld
from tests.simulation.disk import Disk
from tests.simulation.findings import RunFindings, check_join
from tests.simulation.network import Network, Weather
from tests.simulation.run import SimulatedRun
from tests.support.join.world import keyed, label, prediction

PARTITIONS = 2
JOIN = Join(horizon=6_000, early_horizon=2_500, correction_window=4_000, clock_skew=500)
CONNECTION = Connection("simulated:1", "s.")
FAULTS_S = 9.0
_CLOSING_S = 10.0  # longer than anything waits for its other half
_FLUSHED_S = 3.0
_LONGEST_S = 90.0
_OTHER_PRODUCER = 9_000
_STEPS = ("read", "processed", "produced", "offsets sent", "committed", "kept", "flushed")


def simulate_join(seed: int, *, lines: bool = False) -> SimulatedRun:
    """Run the joiner with the faults of a seed, and check what it wrote."""
    return _JoinRun(seed, lines=lines).run()


class _PlannedFault(NamedTuple):
    """A kill, or a stop for ``frozen_s``, after a step of a batch that comes ``left`` times before."""

    step: str
    left: int
    frozen_s: float


class _JoinRun:
    def __init__(self, seed: int, *, lines: bool) -> None:
        self.seed = seed
        self.world = VirtualWorld(seed)
        self.rng = random.Random(f"join {seed}")
        self.world.lines = [] if lines else None
        rough = self.rng.choice((0.0, 0.02, 0.05, 0.1))
        self.weather = Weather(
            cut=rough, stall=self.rng.choice((0.0, 0.0, 0.01, 0.04)), slow=0.1, calm_at=FAULTS_S
        )
        self.network = Network(self.world, self.weather)
        self.cluster = SimulatedCluster(
            self.world, {CONNECTION.topic(topic): count for topic, count in _TOPICS.items()}
        )
        self.simulation = Simulation(
            self.world, self.network, self.cluster, stalls=self.rng.choice((0.0, 0.1, 0.3))
        )
        self.disk = Disk(self.world)
        self.faults: Counter[str] = Counter()
        self.findings = RunFindings()
        self.running: dict[str, Process] = {}
        self.wanted: set[str] = set()
        self.fault_at: dict[str, _PlannedFault] = {}

    def run(self) -> SimulatedRun:
        others = {
            RocksStore: self.disk.open,
            rocksdict.Cache: lambda _size: None,
            stop_deadline.close_in_time: lambda close, _seconds=1.0: close(),
        }
        with installed(self.simulation, others), mock.patch.object(shell.log, "warning"):
            self._begin()
            self.world.sleep(FAULTS_S)
            self._calm()
            self.world.sleep(_CLOSING_S)
            for _ in range(2):  # expiry may wait for a flush, and is announced with the next batch
                self._close_history()
                while self.world.now < _LONGEST_S and self._committed() != self._ends():
                    self.world.sleep(0.5)
                self.world.sleep(_FLUSHED_S)
            self.world.close()
        if self.world.now >= _LONGEST_S:
            self.findings.add("stuck", f"offsets {self._committed()} of {self._ends()}")
        check_join(self.simulation, CONNECTION, JOIN, self.findings)
        self._check_books()
        outcomes = sum(1 for p in range(PARTITIONS) for _ in self._log(OUTCOMES, p).read(0, 1 << 30))
        self.faults["requests"] = self.network.faults
        return SimulatedRun(
            self.seed,
            self.findings,
            self.world.fingerprint,
            self.world.now,
            outcomes,
            self.faults,
            self.world.lines or [],
        )

    # The history

    def _begin(self) -> None:
        for key, spec in ((JOIN_KEY, JOIN), ("m", ModelSpec())):
            record = SpecRecord(model=key, digest="0" * 64, ts=1, spec=spec.model_dump(mode="json"))
            self._log(SPECS, 0).append([SentRecord(key.encode(), record.encode())])
        for at, event in self._history():
            self.world.after(at, lambda event=event: self._send(event))
        self._start("j0")
        if self.rng.random() < 0.4:
            self.world.after(self.rng.uniform(0.0, 4.0), lambda: self._start("j1"))
        for _ in range(self.rng.choice((0, 1, 2, 4))):
            self.world.after(self.rng.uniform(0.3, FAULTS_S), self._fault)
        other = random.Random(f"other producer {self.seed}")
        if other.random() < 0.2:
            self.world.after(other.uniform(0.2, 5.0), lambda: self._hold_back(other))

    def _history(self) -> list[tuple[float, dict[str, object]]]:
        rng, events = self.rng, list[tuple[float, dict[str, object]]]()
        for number in range(rng.choice((8, 16, 24))):
            name = f"id-{self.seed}-{number}"
            at = rng.uniform(0.2, 7.0)
            said = prediction(name, rng.choice(("x", "y", None)))
            events.append((at, said))
            if rng.random() < 0.15:
                events.append((at + rng.uniform(0.0, 0.5), said))
            if rng.random() < 0.2:
                events.append((at, prediction(name, "y", version=2, role="shadow")))
            for _ in range(rng.choice((0, 1, 1, 1, 2))):
                given = label(name, rng.choice(("x", "y")), source=rng.choice(("expert", "system", "user")))
                events.append((max(0.1, at + rng.choice((-3.5, -1.0, 0.0, 0.1, 0.5, 2.0, 7.0))), given))
        return events

    def _send(self, event: dict[str, object]) -> None:
        key, value = keyed(event)
        topic = PREDICTIONS if "model" in event else LABELS
        self._log(topic, partition_of(key, PARTITIONS)).append([SentRecord(key, value)])

    def _hold_back(self, rng: random.Random) -> None:
        """Somebody else leaves a transaction open in an input: readers see nothing behind its record."""
        topic, number = rng.choice((PREDICTIONS, LABELS)), rng.randrange(PARTITIONS)
        names = (f"held-{self.seed}-{n}" for n in itertools.count())
        name = next(name for name in names if partition_of(name.encode(), PARTITIONS) == number)
        key, value = keyed(prediction(name, "x") if topic is PREDICTIONS else label(name, "x"))
        log, commit = self._log(topic, number), rng.random() < 0.5
        log.append_open([SentRecord(key, value)], _OTHER_PRODUCER, 0, 0, _OTHER_PRODUCER)
        self.world.after(
            rng.uniform(1.0, FAULTS_S - 1.0), lambda: log.mark(_OTHER_PRODUCER, 0, commit=commit)
        )
        self.faults["held back"] += 1

    def _close_history(self) -> None:
        """Let time pass for every partition, so that what expires has expired."""
        for topic, number in itertools.product((PREDICTIONS, LABELS), range(PARTITIONS)):
            name = next(
                name
                for name in (f"end-{topic.name}-{n}" for n in itertools.count())
                if partition_of(name.encode(), PARTITIONS) == number
            )
            event = prediction(name, "x") if topic is PREDICTIONS else label(name, "x")
            self._log(topic, number).append([SentRecord(name.encode(), orjson.dumps(event))])

    # The joiners

    def _start(self, name: str) -> None:
        self.wanted.add(name)
        if name in self.running:
            return
        tuning = JoinTuning(
            max_batch=self.rng.choice((2, 5, 50)),
            linger_s=0.005,
            backlog=self.rng.choice((0, 3, 1_000)),
            max_held=self.rng.choice((5, 50)),
            flush_interval_s=self.rng.choice((0.2, 2.0)),
            memory_ids=8,
            checkpoint_interval_s=0.0,
        )
        stop = threading.Event()

        def work() -> None:
            shell.run_joiner(
                CONNECTION,
                state_dir=Path("/", name),
                instance_id=name,
                stop=stop,
                tuning=tuning,
                observe=lambda step: self._observe(name, step),
            )

        self.running[name] = self.world.spawn(name, work, lambda process: self._ended(name, process))

    def _observe(self, name: str, step: str) -> None:
        planned = self.fault_at.get(name)
        self.world.trace(f"{name} {step}")
        if planned is not None and planned.step == step:
            self.fault_at[name] = planned._replace(left=planned.left - 1)
            if planned.left == 0:
                del self.fault_at[name]
                if planned.frozen_s:
                    self.world.freeze(self.world.current, planned.frozen_s)
                    self.world.sleep(0)
                else:
                    self.world.kill(self.world.current)
                    raise ProcessKilled

    def _ended(self, name: str, process: Process) -> None:
        if self.running.get(name) is process:
            del self.running[name]
        error = process.error
        if error is not None:
            self.faults[type(error).__name__] += 1
            if not isinstance(error, Error):
                self.findings.add("crash", "".join(traceback.format_exception(error)))
        if name in self.wanted and self.world.now < _LONGEST_S:
            self.world.after(self.rng.choice((0.1, 1.0)), lambda: self._start(name))

    def _fault(self) -> None:
        if not self.running:
            return
        name = self.rng.choice(sorted(self.running))
        process = self.running[name]
        kind = self.rng.choice(
            ("kill", "kill at", "kill at", "wipe", "freeze", "freeze at", "leave", "outage")
        )
        self.faults[kind] += 1
        if kind == "kill":
            self.world.kill(process)
        elif kind == "kill at":
            self.fault_at[name] = _PlannedFault(self.rng.choice(_STEPS), self.rng.randrange(3), 0.0)
        elif kind == "freeze at":
            frozen_s = self.rng.choice((1.0, 8.0, 9.0))
            self.fault_at[name] = _PlannedFault(self.rng.choice(_STEPS), self.rng.randrange(3), frozen_s)
        elif kind == "wipe":
            self.world.kill(process)
            self.disk.wipe(name)
        elif kind == "freeze":
            self.world.freeze(process, self.rng.choice((0.5, 3.0, 8.0, 12.0)))
        elif kind == "outage":
            self.network.down_until = self.world.now + self.rng.choice((1.0, 6.0, 13.0))
        elif name == "j1":  # for longer than a session
            self.wanted.discard(name)
            self.world.kill(process)
            self.world.after(self.rng.choice((2.0, 8.0)), lambda: self._start(name))

    def _calm(self) -> None:
        self.fault_at.clear()
        for name in sorted(self.wanted):
            self._start(name)

    def _committed(self) -> list[int]:
        offsets = self.cluster.group(CONNECTION.group(shell.GROUP)).offsets
        return [offsets[place].offset if place in offsets else 0 for place in self._inputs()]

    def _check_books(self) -> None:
        """The committed books balance, and count every record of their partition."""
        offsets = self.cluster.group(CONNECTION.group(shell.GROUP)).offsets
        for number in range(PARTITIONS):
            places = [(CONNECTION.topic(topic), number) for topic in (PREDICTIONS, LABELS)]
            position = position_of(*(TopicPartition(*place, *offsets.get(place, NEVER)) for place in places))
            books = position and position.books
            logged = tuple(
                sum(1 for _ in self._log(topic, number).read(0, 1 << 30)) for topic in (PREDICTIONS, LABELS)
            )
            if not books or any(books.difference) or (books.predictions.read, books.labels.read) != logged:
                self.findings.add("inconsistent", f"books of partition {number}, {logged} records: {books}")

    def _ends(self) -> list[int]:
        return [self.cluster.logs[place].end for place in self._inputs()]

    def _inputs(self) -> list[tuple[str, int]]:
        return [(CONNECTION.topic(topic), p) for topic in (PREDICTIONS, LABELS) for p in range(PARTITIONS)]

    def _log(self, topic: Topic, number: int):
        return self.cluster.logs[CONNECTION.topic(topic), number]


_TOPICS: dict[Topic, int] = {
    PREDICTIONS: PARTITIONS,
    LABELS: PARTITIONS,
    OUTCOMES: PARTITIONS,
    VITALS: 1,
    DEAD_LETTERS: 1,
    JOIN_PROGRESS: 1,
    SPECS: 1,
}
