"""The loop as the demo sees it while it runs: decisions, runs, versions and the servers that serve them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ...schemas.decisions import Drift, Trigger
from ...schemas.runs import TERMINAL, TrainingRun
from ...schemas.serving import ModelAck, ModelUpdate
from ...schemas.topics import DRIFT, MODEL_ACKS, MODEL_UPDATES, TRAINING_RUNS, TRIGGERS, Topic
from ...streams.kafka.record import Record

TOPICS: tuple[Topic, ...] = (DRIFT, TRIGGERS, TRAINING_RUNS, MODEL_UPDATES, MODEL_ACKS)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stamped(Generic[T]):
    """An event and its append time."""

    event: T
    append_ms: int


@dataclass(slots=True)
class LoopView:
    """A fold over the decision topics, by id, so that repeats count once."""

    prefix: str
    drifts: dict[str, Stamped[Drift]] = field(default_factory=dict[str, Stamped[Drift]])
    triggers: dict[str, Stamped[Trigger]] = field(default_factory=dict[str, Stamped[Trigger]])
    runs: dict[str, TrainingRun] = field(default_factory=dict[str, TrainingRun])
    updates: list[Stamped[ModelUpdate]] = field(default_factory=list[Stamped[ModelUpdate]])
    live: dict[str, ModelAck] = field(default_factory=dict[str, ModelAck])
    live_since: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])

    def apply(self, record: Record) -> None:
        if record.value is None:
            return
        topic = record.topic.removeprefix(self.prefix)
        if topic == DRIFT.name:
            drift = Drift.decode(record.value)
            self.drifts.setdefault(drift.drift_id, Stamped(drift, record.append_ms))
        elif topic == TRIGGERS.name:
            trigger = Trigger.decode(record.value)
            self.triggers.setdefault(trigger.trigger_id, Stamped(trigger, record.append_ms))
        elif topic == TRAINING_RUNS.name:
            run = TrainingRun.decode(record.value)
            self.runs[run.run_id] = run
        elif topic == MODEL_UPDATES.name:
            self.updates.append(Stamped(ModelUpdate.decode(record.value), record.append_ms))
        elif topic == MODEL_ACKS.name:
            ack = ModelAck.decode(record.value)
            self.live[ack.server_id] = ack
            if ack.status == "live":
                self.live_since.setdefault((ack.server_id, ack.generation), record.append_ms)

    @property
    def generation(self) -> int:
        return max((update.event.generation for update in self.updates), default=0)

    @property
    def version(self) -> int:
        """The champion of the newest update; 0 before the first."""
        newest = max(self.updates, key=lambda update: update.event.generation, default=None)
        champion = None if newest is None else newest.event.plan.champion
        return 0 if champion is None else champion.version

    def drift_by_kind(self) -> dict[str, int]:
        return dict(sorted(Counter(stamped.event.kind for stamped in self.drifts.values()).items()))

    def runs_by_status(self) -> dict[str, int]:
        return dict(sorted(Counter(run.status for run in self.runs.values()).items()))

    def unanswered_triggers(self) -> set[str]:
        """Triggers without a run so far."""
        answered = {run.trigger_id for run in self.runs.values()}
        return {
            stamped.event.trigger_id
            for stamped in self.triggers.values()
            if stamped.event.approval in ("automatic", "approved")
        } - answered

    def open_runs(self) -> list[TrainingRun]:
        return [run for run in self.runs.values() if run.status not in TERMINAL]

    def behind(self, servers: int) -> bool:
        """Whether fewer than ``servers`` serve the newest generation."""
        newest = self.generation
        return newest > 0 and sum(ack.generation >= newest for ack in self.live.values()) < servers
