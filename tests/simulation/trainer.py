"""One run of the trainer: triggers and commands, one or two trainers, and the faults of the joiner's runs.

Shell, cores, input, transactions and rebuilding from the log run as they are. What trains does not: a window
is full, and an execution has failed, a moment after it was asked for. The artifact store and children are
left out.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from driftloop.models.registry.signing import load_or_create_keypair, load_verifier
from driftloop.schemas.decisions import Command, Trigger
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.model import ModelSpec, SpecRecord
from driftloop.schemas.topics import (
    COMMAND_RESULTS,
    COMMANDS,
    DEAD_LETTERS,
    MODEL_UPDATES,
    OUTCOMES,
    SPECS,
    TRAINING_RUNS,
    TRIGGERS,
    VITALS,
    Topic,
)
from driftloop.streams.kafka import stop_deadline
from driftloop.streams.train import shell
from driftloop.streams.train.core import TrainerCore
from driftloop.streams.train.model_runs import ModelRuns
from driftloop.streams.train.step import NOTHING, Step
from driftloop.streams.train.window.window import FrozenWindow

from tests.simulation.broker.log import SentRecord
from tests.simulation.client.installed import installed
from tests.simulation.clock import VirtualWorld
from tests.simulation.findings import RunFindings, check_trainer
from tests.simulation.network import Weather
from tests.simulation.run import CONNECTION, GroupRun, SimulatedRun

PARTITIONS = 2
_TAKES_S = 0.3
_MODELS = ("a", "b", "c", "d")
_INPUTS = (TRIGGERS, COMMANDS)
_TOPICS = (
    *_INPUTS, COMMAND_RESULTS, TRAINING_RUNS, MODEL_UPDATES, VITALS, DEAD_LETTERS, OUTCOMES
)  # fmt: skip


def simulate_trainer(seed: int, *, lines: bool = False) -> SimulatedRun:
    """Run the trainer with the faults of a seed, and check what it wrote."""
    return _TrainerRun(seed, lines=lines).run()


@cache
def _keys() -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return load_or_create_keypair(Path(folder)), load_verifier(Path(folder))


class _Training:
    """Stands in for the supervision of what trains: everything takes a moment, and fails."""

    def __init__(self, world: VirtualWorld) -> None:
        self._world = world
        self._asked: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        self.busy = True

    def collect(self, core: TrainerCore) -> Step:
        step, now = NOTHING, self._world.now
        for model in core.models():
            for wait in model.waits():
                if now - self._asked.setdefault(wait.run_id, now) > _TAKES_S:
                    frozen = FrozenWindow(ends={0: 0}, labels=wait.needed, now_ms=wait.accepted_ms)
                    step += model.ready(wait.run_id, frozen)
            for run in model.open_runs():
                if now - self._begun.get(run.run_id, now) > _TAKES_S:
                    step += model.failed(run.run_id, "no better", {})
            startable = model.startable(self._begun)
            if startable is not None:
                self._begun[startable.run_id] = now
                step += model.start(startable.run_id)
        return step

    def reconcile(self, models: list[ModelRuns]) -> None:
        self.adopt(models)

    def adopt(self, models: list[ModelRuns]) -> None:
        active = {run.run_id for model in models for run in model.open_runs() if run.status != "waiting"}
        self._begun = {run_id: at for run_id, at in self._begun.items() if run_id in active}

    def close(self) -> None:
        pass


class _TrainerRun(GroupRun):
    role = "train"
    topics: ClassVar[dict[Topic, int]] = dict.fromkeys(_TOPICS, PARTITIONS) | {SPECS: 1}
    group = "trainer"
    inputs = tuple(itertools.product(_INPUTS, range(PARTITIONS)))
    kinds = ("kill", "freeze", "outage")
    frozen_s = (0.5, 3.0, 8.0)
    longest_s = 80.0

    def weather(self) -> Weather:
        rough, stall = self.rng.choice((0.0, 0.05, 0.15)), self.rng.choice((0.0, 0.02))
        return Weather(cut=rough, stall=stall, slow=0.1, calm_at=self.faults_s)

    def run(self) -> SimulatedRun:
        with ExitStack() as stack:
            close_in_time = {stop_deadline.close_in_time: lambda close, _seconds=1.0: close()}
            stack.enter_context(installed(self.simulation, close_in_time))
            for name, stand_in in (
                ("load_or_create_keypair", lambda _folder: _keys()[0]),
                ("load_verifier", lambda _folder: _keys()[1]),
                ("RunSupervision", lambda *_a, **_k: _Training(self.world)),
                ("ArtifactStore", mock.MagicMock()),
                ("ChildPool", mock.MagicMock()),
                ("OutcomeWatch", mock.MagicMock()),
                ("TrainingWorker", mock.MagicMock()),
            ):
                stack.enter_context(mock.patch.object(shell, name, stand_in))
            self._begin()
            self.world.sleep(self.faults_s)
            self.start_all()
            while self.world.now < self.longest_s and not self._done():
                self.world.sleep(1.0)
            self.world.sleep(2.0)
            self.world.close()
        if self.world.now >= self.longest_s:
            self.findings.add("stuck", self.behind())
        return self.came_to(check_trainer(self.simulation, CONNECTION, self.findings))

    def _begin(self) -> None:
        rng = self.rng
        spec = ModelSpec().model_dump(mode="json")
        for model in _MODELS:
            record = SpecRecord(model=model, digest="0" * 64, ts=1, spec=spec)
            self.log(SPECS).append([SentRecord(model.encode(), record.encode())])
        for number in range(rng.choice((4, 10))):
            model, at, ts = rng.choice(_MODELS), rng.uniform(0.1, 8.0), self.cluster.now_ms()
            if rng.random() < 0.6:
                trigger = Trigger(
                    trigger_id=f"trigger-{number}",
                    model=model,
                    version=0,
                    reason="manual",
                    ts=ts,
                    spec_digest="0" * 64,
                )
                self._later(at, TRIGGERS, model, trigger.encode())
            else:
                command = Command(
                    command_id=f"c-{number}", model=model, action="pin", ts=ts, by="me", version=1
                )
                self._later(at, COMMANDS, model, command.encode())
        self.begin("t0", "t1", (0, 1, 3))

    def _later(self, at: float, topic: Topic, model: str, value: bytes) -> None:
        log = self.log(topic, partition_of(model, PARTITIONS))
        self.world.after(at, lambda: log.append([SentRecord(model.encode(), value)]))

    def work_of(self, name: str) -> Callable[[], None]:
        config = shell.TrainerConfig(
            store_url="memory://", keys_dir=Path("/keys"), state_dir=Path("/nowhere", name), instance_id=name,
            clock="append", busy_poll_s=0.1, idle_poll_s=0.2,
        )  # fmt: skip
        return lambda: shell.run_trainer(CONNECTION, config, threading.Event())

    def _done(self) -> bool:
        so_far = RunFindings()
        check_trainer(self.simulation, CONNECTION, so_far)
        return not self.behind() and "lost" not in so_far.examples
