"""One run of the joiner: a short history of predictions and labels, one or two joiners, and many faults."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple
from unittest import mock

import rocksdict
from confluent_kafka import TopicPartition
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

from tests.simulation.broker.group import NEVER
from tests.simulation.broker.log import SentRecord
from tests.simulation.client.installed import installed
from tests.simulation.clock import ProcessKilled
from tests.simulation.disk import Disk
from tests.simulation.findings import check_join
from tests.simulation.network import Weather
from tests.simulation.run import CONNECTION, GroupRun, SimulatedRun
from tests.support.join.world import keyed, label, prediction

PARTITIONS = 2
JOIN = Join(horizon=6_000, early_horizon=2_500, correction_window=4_000, clock_skew=500)
_INPUTS = (PREDICTIONS, LABELS)
_CLOSING_S = 10.0  # longer than anything waits for its other half
_FLUSHED_S = 3.0
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


class _JoinRun(GroupRun):
    role = "join"
    topics: ClassVar[dict[Topic, int]] = {
        PREDICTIONS: PARTITIONS,
        LABELS: PARTITIONS,
        OUTCOMES: PARTITIONS,
        VITALS: 1,
        DEAD_LETTERS: 1,
        JOIN_PROGRESS: 1,
        SPECS: 1,
    }
    group = shell.GROUP
    inputs = tuple(itertools.product(_INPUTS, range(PARTITIONS)))
    kinds = ("kill", "kill at", "kill at", "wipe", "freeze", "freeze at", "leave", "outage")
    frozen_s = (0.5, 3.0, 8.0, 12.0)
    longest_s = 90.0

    def __init__(self, seed: int, *, lines: bool) -> None:
        super().__init__(seed, lines=lines)
        self.disk = Disk(self.world)
        self.fault_at: dict[str, _PlannedFault] = {}

    def weather(self) -> Weather:
        rough, stall = self.rng.choice((0.0, 0.02, 0.05, 0.1)), self.rng.choice((0.0, 0.0, 0.01, 0.04))
        return Weather(cut=rough, stall=stall, slow=0.1, calm_at=self.faults_s)

    def stalls(self) -> float:
        return self.rng.choice((0.0, 0.1, 0.3))

    def run(self) -> SimulatedRun:
        others = {
            RocksStore: self.disk.open,
            rocksdict.Cache: lambda _size: None,
            stop_deadline.close_in_time: lambda close, _seconds=1.0: close(),
        }
        with installed(self.simulation, others), mock.patch.object(shell.log, "warning"):
            self._begin()
            self.world.sleep(self.faults_s)
            self.fault_at.clear()
            self.start_all()
            self.world.sleep(_CLOSING_S)
            for _ in range(2):  # expiry may wait for a flush, and is announced with the next batch
                for topic, number in self.inputs:  # time passes everywhere, so that what expires has expired
                    self.log(topic, number).append([_record(topic, number, f"end-{topic.name}")])
                while self.world.now < self.longest_s and self.behind():
                    self.world.sleep(0.5)
                self.world.sleep(_FLUSHED_S)
            self.world.close()
        if self.world.now >= self.longest_s:
            self.findings.add("stuck", self.behind())
        check_join(self.simulation, CONNECTION, JOIN, self.findings)
        self._check_books()
        return self.came_to(sum(self._count(OUTCOMES, number) for number in range(PARTITIONS)))

    # The history

    def _begin(self) -> None:
        for key, spec in ((JOIN_KEY, JOIN), ("m", ModelSpec())):
            record = SpecRecord(model=key, digest="0" * 64, ts=1, spec=spec.model_dump(mode="json"))
            self.log(SPECS).append([SentRecord(key.encode(), record.encode())])
        for at, event in self._history():
            self.world.after(at, lambda event=event: self._send(event))
        self.begin("j0", "j1", (0, 1, 2, 4))
        other = random.Random(f"other producer {self.seed}")
        if other.random() < 0.2:
            self.world.after(other.uniform(0.2, 5.0), lambda: self._hold_back(other))

    def _history(self) -> list[tuple[float, dict[str, object]]]:
        rng, events = self.rng, list[tuple[float, dict[str, object]]]()
        for number in range(rng.choice((8, 16, 24))):
            name = f"id-{self.seed}-{number}"
            at = rng.uniform(0.2, 7.0)
            event = prediction(name, rng.choice(("x", "y", None)))
            events.append((at, event))
            if rng.random() < 0.15:
                events.append((at + rng.uniform(0.0, 0.5), event))
            if rng.random() < 0.2:
                events.append((at, prediction(name, "y", version=2, role="shadow")))
            for _ in range(rng.choice((0, 1, 1, 1, 2))):
                given = label(name, rng.choice(("x", "y")), source=rng.choice(("expert", "system", "user")))
                events.append((max(0.1, at + rng.choice((-3.5, -1.0, 0.0, 0.1, 0.5, 2.0, 7.0))), given))
        return events

    def _send(self, event: dict[str, object]) -> None:
        key, value = keyed(event)
        topic = PREDICTIONS if "model" in event else LABELS
        self.log(topic, partition_of(key, PARTITIONS)).append([SentRecord(key, value)])

    def _hold_back(self, rng: random.Random) -> None:
        """Somebody else leaves a transaction open in an input: readers see nothing behind its record."""
        topic, number = rng.choice(_INPUTS), rng.randrange(PARTITIONS)
        log, commit = self.log(topic, number), rng.random() < 0.5
        record = _record(topic, number, f"held-{self.seed}")
        log.append_open([record], _OTHER_PRODUCER, 0, 0, _OTHER_PRODUCER)
        self.world.after(
            rng.uniform(1.0, self.faults_s - 1.0), lambda: log.mark(_OTHER_PRODUCER, 0, commit=commit)
        )
        self.faults["held back"] += 1

    # The joiners

    def work_of(self, name: str) -> Callable[[], None]:
        tuning = JoinTuning(
            max_batch=self.rng.choice((2, 5, 50)),
            linger_s=0.005,
            backlog=self.rng.choice((0, 3, 1_000)),
            max_held=self.rng.choice((5, 50)),
            flush_interval_s=self.rng.choice((0.2, 2.0)),
            memory_ids=8,
            checkpoint_interval_s=0.0,
        )
        return lambda: shell.run_joiner(
            CONNECTION,
            state_dir=Path("/", name),
            instance_id=name,
            stop=threading.Event(),
            tuning=tuning,
            observe=lambda step: self._observe(name, step),
        )

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

    def strike(self, name: str, kind: str) -> None:
        if kind == "kill at":
            self.fault_at[name] = _PlannedFault(self.rng.choice(_STEPS), self.rng.randrange(3), 0.0)
        elif kind == "freeze at":
            frozen_s = self.rng.choice((1.0, 8.0, 9.0))
            self.fault_at[name] = _PlannedFault(self.rng.choice(_STEPS), self.rng.randrange(3), frozen_s)
        elif kind == "wipe":
            self.world.kill(self.running[name])
            self.disk.wipe(name)
        elif kind != "leave":
            super().strike(name, kind)
        elif name == "j1":  # for longer than a session
            self.wanted.discard(name)
            self.world.kill(self.running[name])
            self.world.after(self.rng.choice((2.0, 8.0)), lambda: self.start(name))

    def _check_books(self) -> None:
        """The committed books balance, and count every record of their partition."""
        offsets = self.cluster.group(CONNECTION.group(self.group)).offsets
        for number in range(PARTITIONS):
            places = [(CONNECTION.topic(topic), number) for topic in _INPUTS]
            position = position_of(*(TopicPartition(*place, *offsets.get(place, NEVER)) for place in places))
            books = position and position.books
            logged = tuple(self._count(topic, number) for topic in _INPUTS)
            if not books or any(books.difference) or (books.predictions.read, books.labels.read) != logged:
                self.findings.add("inconsistent", f"books of partition {number}, {logged} records: {books}")

    def _count(self, topic: Topic, number: int) -> int:
        return len(list(self.log(topic, number).read()))


def _record(topic: Topic, number: int, stem: str) -> SentRecord:
    """A record of this partition with an id that begins like this."""
    names = (f"{stem}-{n}" for n in itertools.count())
    name = next(name for name in names if partition_of(name.encode(), PARTITIONS) == number)
    return SentRecord(*keyed(prediction(name, "x") if topic is PREDICTIONS else label(name, "x")))
