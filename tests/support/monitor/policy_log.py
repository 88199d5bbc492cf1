"""A log of vitals for the policy, and its triggers."""

from __future__ import annotations

from typing import Any

from driftloop.schemas.control import ApprovalControl, RequestControl, TickControl
from driftloop.schemas.decisions import Change, Trigger
from driftloop.schemas.runs import RunStatus
from driftloop.schemas.spec.model import ModelSpec

from tests.support.monitor.output import triggers
from tests.support.monitor.records import (
    MODEL,
    START_MS,
    MonitorLog,
    bits,
    reference,
    run_record,
    spec_record,
    update_record,
)

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def live(**rules: Any) -> MonitorLog:
    """A champion that has been right four times of five for a while."""
    log = MonitorLog()
    log.append(spec_record(ModelSpec.model_validate({"triggers": rules})))
    log.append(update_record(1, reference()))
    log.stream(bits(0.2, 3_000, 1))
    assert triggers(log.emitted) == []
    return log


def decayed(log: MonitorLog, seed: int = 2, rate: float = 0.5) -> Trigger:
    """The first trigger that a lasting rise of the error causes."""
    for _ in range(40):
        found = triggers(log.stream(bits(rate, 50, seed)))
        if found:
            return found[0]
        seed += 100
    raise AssertionError("there was no trigger")


def tick(log: MonitorLog, after_ms: int = 0) -> list[Trigger]:
    return triggers(log.append(TickControl().encode(), after_ms=after_ms))


def ended(log: MonitorLog, trigger: Trigger, status: RunStatus, *, last: bool = True) -> list[Trigger]:
    return triggers(log.append(run_record(trigger.trigger_id, status, last_stage=last)))


def approval(trigger: Trigger, *, approved: bool) -> bytes:
    return ApprovalControl(
        model=MODEL,
        command_id="c",
        trigger_id=trigger.trigger_id,
        approved=approved,
        by="ann",
        why="it is due",
        ts=START_MS,
    ).encode()


def request(command_id: str = "command-1", change: Change | None = None) -> bytes:
    return RequestControl(
        model=MODEL, command_id=command_id, by="ann", why="new prices", ts=START_MS, change=change
    ).encode()
