"""A trainer process and its input: outcomes of a small world, triggers and commands.

The world: ``x`` and ``y`` are uniform noise in [0, 1), the label says whether x > 0.5; after a change,
whether x < 0.5. The trainer runs in a process of its own, so that it can be killed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from confluent_kafka import Producer
from driftloop.infra.control.specs import apply_deployment
from driftloop.infra.settings import Settings
from driftloop.schemas.base import Event
from driftloop.schemas.control import CONTROL, Control
from driftloop.schemas.decisions import (
    Action,
    Change,
    ChangePosition,
    Command,
    CommandResult,
    Trigger,
    TriggerReason,
)
from driftloop.schemas.events import DeadLetter, Outcome
from driftloop.schemas.partition import partition_of
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import (
    COMMAND_RESULTS,
    COMMANDS,
    DEAD_LETTERS,
    MODEL_UPDATES,
    OUTCOMES,
    TRAINING_RUNS,
    TRIGGERS,
    VITALS,
    Topic,
)
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.record import Record
from driftloop.streams.train.shell import TrainerConfig
from driftloop.streams.train.window.window import Clock

from tests.support.kafka.topics import read_topic
from tests.support.waiting import wait_until

MODEL = "world"
EPOCH = 1_700_000_000_000
E = TypeVar("E", bound=Event)


def quick_spec(**changes: object) -> ModelSpec:
    """Small windows and a small learner."""
    table: dict[str, object] = {
        "classes": ["no", "yes"],
        "features": {"x": "number", "y": "number"},
        "learner": {"kind": "hgb", "max_iter": 10, "min_samples_leaf": 10},
        "triggers": {"first_labels": 300},
        "window": {"labels_after_change": 300, "follow_ups": [], "max_rows": 2000, "old_rows": 500},
    }
    return ModelSpec.model_validate(table | changes)


def outcome(
    model: str, number: int, seq: int, *, version: int, flipped: bool, noise: float = 0.05
) -> Outcome:
    """The ``number``-th request's outcome; the same number gives the same one."""
    at_random = random.Random(number)
    x, y = at_random.random(), at_random.random()
    truth = (x > 0.5) != flipped
    if at_random.random() < noise:
        truth = not truth
    predicted = "no" if version == 0 else ("yes" if x > 0.5 else "no")
    label = "yes" if truth else "no"
    return Outcome(
        model=model,
        prediction_id=f"{model}-{number}",
        version=version,
        ts=EPOCH + number * 1000,
        features={"x": x, "y": y},
        prediction=predicted,
        label=label,
        error_value=float(predicted != label),
        label_ts=EPOCH + number * 1000 + 500,
        label_delay_ms=500,
        seq=seq,
    )


@dataclass
class World:
    """One test's topics, with what was written to them."""

    settings: Settings
    connection: Connection
    seqs: dict[int, int] = field(default_factory=dict[int, int])
    written: int = 0

    def __post_init__(self) -> None:
        self._producer = Producer(self.connection.producer(message_max_bytes=4_194_304))

    @property
    def partitions(self) -> int:
        return self.settings.data_partitions

    def apply(self, spec: ModelSpec, model: str = MODEL) -> None:
        apply_deployment(self.connection, Deployment(models={model: spec}))

    def outcomes(self, count: int, *, model: str = MODEL, version: int = 0, flipped: bool = False) -> None:
        """``count`` more outcomes, dealt to the partitions in turn."""
        for _ in range(count):
            self._write(self.written % self.partitions, model, version, flipped=flipped)
        self.flush()

    def outcomes_on(
        self, partition: int, count: int, *, model: str = MODEL, version: int = 0, flipped: bool = False
    ) -> None:
        """``count`` more outcomes, all on one partition, so that their order on the log is theirs."""
        for _ in range(count):
            self._write(partition, model, version, flipped=flipped)
        self.flush()

    def _write(self, partition: int, model: str, version: int, *, flipped: bool) -> None:
        seq = self.seqs.get(partition, 0)
        made = outcome(model, self.written, seq, version=version, flipped=flipped)
        self.produce(OUTCOMES, made.encode(), key=made.prediction_id, partition=partition)
        self.seqs[partition] = seq + 1
        self.written += 1

    def here(self) -> Change:
        """A change that begins with the next outcome."""
        positions = {
            str(p): ChangePosition(seq=self.seqs.get(p, 0), append_ms=time.time_ns() // 1_000_000)
            for p in range(self.partitions)
        }
        return Change(partitions=positions, ts=EPOCH + self.written * 1000)

    def trigger(
        self,
        reason: TriggerReason = "volume",
        *,
        version: int = 0,
        change: Change | None = None,
        model: str = MODEL,
        **fields: object,
    ) -> Trigger:
        trigger = Trigger(
            trigger_id=f"trigger-{uuid.uuid4().hex[:8]}",
            model=model,
            version=version,
            reason=reason,
            ts=EPOCH + self.written * 1000,
            estimated_change=change,
            spec_digest="0" * 64,
        ).model_copy(update=fields)
        self.produce(TRIGGERS, trigger.encode(), key=model)
        self.flush()
        return trigger

    def command(self, action: Action, *, model: str = MODEL, **fields: object) -> Command:
        command = Command(
            command_id=f"command-{uuid.uuid4().hex[:8]}", model=model, action=action, ts=EPOCH, by="ada"
        ).model_copy(update=fields)
        self.produce(COMMANDS, command.encode(), key=model)
        self.flush()
        return command

    def produce(self, topic: Topic, value: bytes, *, key: str, partition: int | None = None) -> None:
        name = self.connection.topic(topic)
        if partition is None:
            partition = partition_of(key, self.settings.model_partitions)
        self._producer.produce(name, value, key=key, partition=partition)
        self._producer.poll(0)

    def flush(self) -> None:
        self._producer.flush(60)

    def ends(self, topic: Topic) -> dict[int, int]:
        return LogOffsets(self.connection).ends(topic, list(range(self.partitions)))

    def newest_append_ms(self, topic: Topic) -> int:
        return max(record.append_ms for record in self.records(topic))

    # --- what the trainer wrote ---------------------------------------------------------------------------

    def records(self, topic: Topic) -> list[Record]:
        return list(read_topic(self.connection, topic))

    def events(self, topic: Topic, event: type[E]) -> list[E]:
        return [event.decode(record.value or b"") for record in self.records(topic)]

    def run_records(self, model: str = MODEL) -> list[TrainingRun]:
        return [run for run in self.events(TRAINING_RUNS, TrainingRun) if run.model == model]

    def runs(self, model: str = MODEL) -> dict[str, TrainingRun]:
        """The newest record of each run."""
        return {run.run_id: run for run in self.run_records(model)}

    def updates(self, model: str = MODEL) -> list[ModelUpdate]:
        return [update for update in self.events(MODEL_UPDATES, ModelUpdate) if update.model == model]

    def results(self) -> dict[str, CommandResult]:
        return {result.command_id: result for result in self.events(COMMAND_RESULTS, CommandResult)}

    def dead_letters(self) -> list[DeadLetter]:
        return self.events(DEAD_LETTERS, DeadLetter)

    def controls(self) -> list[Control]:
        return [CONTROL.validate_json(record.value or b"") for record in self.records(VITALS)]

    def ended(self, trigger: Trigger, stage: int = 0) -> TrainingRun:
        """Waits for the end of the run of a trigger."""

        def found() -> TrainingRun | None:
            for run in self.runs(trigger.model).values():
                if run.trigger_id == trigger.trigger_id and run.stage == stage and _is_over(run):
                    return run
            return None

        return wait_until(found, f"run of {trigger.trigger_id}, stage {stage}, to end")  # type: ignore[return-value]

    def answer(self, command: Command) -> CommandResult:
        return wait_until(lambda: self.results().get(command.command_id), f"an answer to {command.action}")  # type: ignore[return-value]


def _is_over(run: TrainingRun) -> bool:
    return run.status not in ("waiting", "training", "evaluating")


def trainer_config(state: Path, instance: str = "train-0", clock: Clock = "append") -> TrainerConfig:
    return TrainerConfig(
        store_url=str(state / "artifacts"),
        keys_dir=state / "keys",
        state_dir=state / instance,
        instance_id=instance,
        clock=clock,
        custom_learners=frozenset({"tests.support.train.learners"}),
    )


class TrainerProcess:
    """``run_trainer`` in a process of its own. ``dies``: see ``tests.support.train.process``."""

    def __init__(
        self, world: World, *, instance: str = "train-0", dies: str = "", clock: str = "append"
    ) -> None:
        settings = world.settings
        self.log = Path(settings.state_dir).parent / f"{instance}-{uuid.uuid4().hex[:6]}.log"
        command = [sys.executable, "-m", "tests.support.train.process"]
        command += ["--bootstrap", world.connection.bootstrap_servers, "--prefix", world.connection.prefix]
        command += ["--state", str(settings.state_dir), "--instance", instance, "--clock", clock]
        if dies:
            command += ["--dies", dies]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self) -> TrainerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        if kind is not None:
            print(f"--- {self.log.name}\n{self.text()}")


def no_version_twice(updates: Iterable[ModelUpdate]) -> bool:
    """Generations go up by one each, and a version is named by one manifest only."""
    made: dict[int, str] = {}
    for number, update in enumerate(updates, start=1):
        champion = update.plan.champion
        if update.generation != number:
            return False
        if champion is not None and made.setdefault(champion.version, champion.manifest_sha256) != (
            champion.manifest_sha256
        ):
            return False
    return True
