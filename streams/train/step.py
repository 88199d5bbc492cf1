"""What the trainer's cores return: what to store first, then what to write together."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from ...schemas.base import Event
from ...schemas.events import DeadLetter
from ...schemas.ids import event_id
from ...schemas.serving import Manifest
from ...schemas.topics import DEAD_LETTERS, VITALS, Topic
from ..kafka.reader import Record

MAX_REPEATED_BYTES = 3_000_000  # base64 of these, with their envelope, still fits into one record
MAX_REPEATED_KEY = 4_096
MAX_REASON = 1_000


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


def dead_letter(record: Record, stage: str, reason: str) -> Output:
    """The record with its bytes; one with too many keeps its place on the log instead."""
    key, value, cut = record.key, record.value, None
    reason = reason[:MAX_REASON]
    if value is not None and len(value) > MAX_REPEATED_BYTES:
        value, cut, reason = (
            None,
            True,
            f"{reason} (its bytes are too many to repeat: read them at its offset)",
        )
    if key is not None and len(key) > MAX_REPEATED_KEY:
        key, cut = key[:MAX_REPEATED_KEY], True
        reason = f"{reason} (key cut: the first {MAX_REPEATED_KEY} bytes are here)"
    letter = DeadLetter(
        id=event_id("dead", record.topic, record.partition, record.offset),
        stage=stage,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        append_ms=max(record.append_ms, 0),
        reason=reason,
        key_b64=None if key is None else base64.b64encode(key).decode(),
        value_b64=None if value is None else base64.b64encode(value).decode(),
        cut=cut,
    )
    shown = None if key is None else key.decode(errors="replace")
    return Output(DEAD_LETTERS, shown or "", letter, shown)
