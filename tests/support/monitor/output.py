"""What a monitor core emitted, by kind, and the log of a live version."""

from __future__ import annotations

from driftloop.schemas.decisions import Drift, Trigger
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.serving import Reference
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.monitor.core import Emitted

from tests.support.monitor.records import MonitorLog, reference, spec_record, update_record


def drifts(emitted: list[Emitted], severity: str | None = "alarm") -> list[Drift]:
    values = [Drift.decode(item.value) for item in emitted if item.topic.name == "drift"]
    return [drift for drift in values if severity in (None, drift.severity)]


def triggers(emitted: list[Emitted]) -> list[Trigger]:
    return [Trigger.decode(item.value) for item in emitted if item.topic.name == "triggers"]


def dead_letters(emitted: list[Emitted]) -> list[DeadLetter]:
    return [DeadLetter.decode(item.value) for item in emitted if item.topic.name == "dead-letters"]


def live(version: int = 1, *, spec: ModelSpec | None = None, ref: Reference | None = None) -> MonitorLog:
    log = MonitorLog()
    log.append(spec_record(spec or ModelSpec()))
    log.append(update_record(version, ref if ref is not None else reference()))
    return log
