"""What the trainer's cores return: what to store first, then what to write together."""

from __future__ import annotations

from dataclasses import dataclass

from ...schemas.base import Event
from ...schemas.dead_letters import cut_key, dead_letter
from ...schemas.serving import Manifest
from ...schemas.topics import DEAD_LETTERS, VITALS, Topic
from ..kafka.record import Record


@dataclass(frozen=True, slots=True)
class Output:
    """One record for the partition of ``model``; ``key`` may be absent."""

    topic: Topic
    model: str
    event: Event
    key: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """``manifests`` are stored first; then ``outputs`` are written in one transaction, in order."""

    outputs: tuple[Output, ...] = ()
    manifests: tuple[Manifest, ...] = ()

    def __add__(self, other: Step) -> Step:
        return Step(self.outputs + other.outputs, self.manifests + other.manifests)

    def __bool__(self) -> bool:
        return bool(self.outputs)


NOTHING = Step()


def keyed_by_model(topic: Topic, model: str, event: Event) -> Output:
    return Output(topic, model, event, model)


def control(model: str, event: Event) -> Output:
    """A control record for the monitor and the policy of a model."""
    return Output(VITALS, model, event, None)


def dead_letter_of(record: Record, stage: str, reason: str) -> Output:
    """The record as a dead letter, under its own key."""
    letter = dead_letter(
        stage,
        record.topic,
        record.partition,
        record.offset,
        reason,
        append_ms=record.append_ms,
        key=record.key,
        value=record.value,
    )
    key = cut_key(record.key)
    shown = None if key is None else key.decode(errors="replace")
    return Output(DEAD_LETTERS, shown or "", letter, shown)
