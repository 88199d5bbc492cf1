"""What the topics say about every model, folded into one value: for ``status``, ``models`` and the demo."""

from __future__ import annotations

from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass, field

from ...schemas.decisions import Drift, Trigger
from ...schemas.errors import DecodeError
from ...schemas.events import DeadLetter
from ...schemas.runs import TrainingRun
from ...schemas.serving import ModelAck, ModelUpdate
from ...schemas.spec.model import JOIN_KEY, SpecRecord
from ...schemas.topics import (
    DEAD_LETTERS,
    DRIFT,
    MODEL_ACKS,
    MODEL_UPDATES,
    SPECS,
    TRAINING_RUNS,
    TRIGGERS,
    VITALS,
    Topic,
)
from ...schemas.vitals import Vitals
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import LogReader, newest
from ...streams.kafka.record import Record

ROLLING_OUTCOMES = 1000
RECENT_RECORDS = 2000

LATEST_TOPICS: tuple[Topic, ...] = (SPECS, MODEL_UPDATES, MODEL_ACKS, TRAINING_RUNS)
RECENT_TOPICS: tuple[Topic, ...] = (DRIFT, TRIGGERS, VITALS, DEAD_LETTERS)


@dataclass(slots=True)
class ModelView:
    """One model as the topics show it."""

    name: str
    spec: SpecRecord | None = None
    update: ModelUpdate | None = None
    runs: dict[str, TrainingRun] = field(default_factory=dict[str, TrainingRun])
    drifts: dict[str, Drift] = field(default_factory=dict[str, Drift])
    triggers: dict[str, Trigger] = field(default_factory=dict[str, Trigger])
    acks: dict[str, ModelAck] = field(default_factory=dict[str, ModelAck])
    errors: deque[float] = field(default_factory=lambda: deque[float](maxlen=ROLLING_OUTCOMES))
    outcomes: int = 0

    @property
    def champion(self) -> int | None:
        """The live version, or None."""
        if self.update is None or self.update.plan.champion is None:
            return None
        return self.update.plan.champion.version

    @property
    def accuracy(self) -> float | None:
        """Of the newest outcomes seen; None for a regression."""
        classification = self.spec is None or self.spec.spec.get("task", "classification") == "classification"
        if not self.errors or not classification:
            return None
        return 1.0 - sum(self.errors) / len(self.errors)

    @property
    def last_run(self) -> TrainingRun | None:
        return max(self.runs.values(), key=lambda run: (run.ts, run.stage), default=None)

    @property
    def last_drift(self) -> Drift | None:
        return max(self.drifts.values(), key=lambda drift: drift.ts, default=None)


@dataclass(slots=True)
class Overview:
    """All models, and what concerns no single one. Feed it records in log order."""

    prefix: str
    models: dict[str, ModelView] = field(default_factory=dict[str, ModelView])
    dead_letters: int = 0
    last_dead_letter: str = ""
    misrouted: int = 0

    def model(self, name: str) -> ModelView:
        return self.models.setdefault(name, ModelView(name))

    def apply(self, record: Record) -> None:
        """Fold one record in. What cannot be read is skipped: status must work on bad days."""
        with suppress(DecodeError, ValueError):  # ValueError: undecodable errors in vitals
            if record.value is not None:
                self._apply(record.topic.removeprefix(self.prefix), record.value)

    def _apply(self, topic: str, value: bytes) -> None:
        if topic == SPECS.name:
            spec = SpecRecord.decode(value)
            if spec.model != JOIN_KEY:
                self.model(spec.model).spec = spec
        elif topic == MODEL_UPDATES.name:
            update = ModelUpdate.decode(value)
            self.model(update.model).update = update
        elif topic == MODEL_ACKS.name:
            ack = ModelAck.decode(value)
            self.model(ack.model).acks[ack.server_id] = ack
        elif topic == TRAINING_RUNS.name:
            run = TrainingRun.decode(value)
            self.model(run.model).runs[run.run_id] = run
        elif topic == DRIFT.name:
            drift = Drift.decode(value)
            self.model(drift.model).drifts[drift.drift_id] = drift
        elif topic == TRIGGERS.name:
            trigger = Trigger.decode(value)
            self.model(trigger.model).triggers[trigger.trigger_id] = trigger
        elif topic == VITALS.name and not value.startswith(b'{"control"'):
            self._vitals(Vitals.decode(value))
        elif topic == DEAD_LETTERS.name:
            self.dead_letters += 1
            self.last_dead_letter = DeadLetter.decode(value).reason

    def _vitals(self, vitals: Vitals) -> None:
        self.misrouted += vitals.counts.misrouted
        for entry in vitals.models:
            view = self.model(entry.model)
            if entry.role == "champion" and entry.errors is not None:
                view.errors.extend(entry.errors.values().tolist())
                view.outcomes += entry.errors.count


def read_overview(connection: Connection, *, recent: int = RECENT_RECORDS) -> Overview:
    """Read the present state: compacted topics whole, the others' newest ``recent`` records per partition."""
    overview = Overview(connection.prefix)
    for reader in (
        LogReader(connection, LATEST_TOPICS),
        LogReader(connection, RECENT_TOPICS, start=newest(recent)),
    ):
        with closing(reader):
            for record in reader.catch_up():
                overview.apply(record)
    return overview
