"""Control records: what else the monitor and policy need, appended to the model's vitals partition.

They make vitals the one ordered input of monitor and policy, so that a replay gives the same decisions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from .base import Event, ModelName, TimestampMs, Version
from .decisions import Change
from .runs import RunStatus
from .serving import Reference


class SpecControl(Event):
    """A model's spec was applied."""

    control: Literal["spec"] = "spec"
    model: ModelName
    digest: str
    spec: dict[str, Any]
    ts: TimestampMs


class RequestControl(Event):
    """A person asked for a retraining."""

    control: Literal["request"] = "request"
    model: ModelName
    command_id: str
    by: str
    why: str
    ts: TimestampMs
    change: Change | None = None


class ApprovalControl(Event):
    """A person approved or denied a trigger that is pending."""

    control: Literal["approval"] = "approval"
    model: ModelName
    command_id: str
    trigger_id: str
    approved: bool
    by: str
    why: str
    ts: TimestampMs


class RunControl(Event):
    """A run ended or moved on: the policy's cooldown and volume counters depend on it."""

    control: Literal["run"] = "run"
    model: ModelName
    run_id: str
    trigger_id: str
    stage: int
    last_stage: bool
    status: RunStatus
    ts: TimestampMs


class UpdateControl(Event):
    """A version went live (or none is): from here on it is the detectors' reference."""

    control: Literal["update"] = "update"
    model: ModelName
    generation: int
    version: Version
    refresh: int = 0
    reference: Reference | None = None
    ts: TimestampMs


class TickControl(Event):
    """No record came for a while, and time goes on."""

    control: Literal["tick"] = "tick"


Control = Annotated[
    SpecControl | RequestControl | ApprovalControl | RunControl | UpdateControl | TickControl,
    Field(discriminator="control"),
]
CONTROL: TypeAdapter[Control] = TypeAdapter(Control)
