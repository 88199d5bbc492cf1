"""What the monitor, the policy and people decide: drift, triggers and commands."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import Event, ModelName, Sha256, TimestampMs, Version
from .events import Role

DriftKind = Literal["concept", "accuracy", "data", "prediction", "latency", "failures", "fairness", "labels"]
Severity = Literal["info", "warning", "alarm"]
TriggerReason = Literal["drift", "schedule", "volume", "manual"]
Approval = Literal["automatic", "pending", "approved", "denied"]
Action = Literal[
    "trigger", "approve", "deny", "promote", "rollback", "pin", "unpin", "block", "register", "retire"
]


class ChangePosition(Event):
    """Where a change began in one outcomes partition."""

    seq: int = Field(description="first outcome after the change")
    append_ms: int = Field(description="append time at or before that outcome's inputs")


class Change(Event):
    """An estimated change point: where in the log, and when in the world."""

    partitions: dict[str, ChangePosition] = Field(description="outcomes partition → position")
    ts: TimestampMs = Field(description="event time of the first prediction after the change")


class Drift(Event):
    """A detector's finding that something changed, with numbers that a person can check."""

    drift_id: str
    model: ModelName
    version: Version
    role: Role = "champion"
    kind: DriftKind
    detector: str
    subject: str = Field(description="what changed: error, a feature's name, a segment, latency p95, …")
    severity: Severity
    value: float
    threshold: float
    ts: TimestampMs = Field(description="the monitor's now")
    caused_append_ms: TimestampMs | None = Field(
        default=None, description="append time of the newest prediction or label behind this detection"
    )
    estimated_change: Change | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class Trigger(Event):
    """A decision to retrain a model, with its reason."""

    trigger_id: str
    model: ModelName
    version: Version = Field(description="the champion that decayed; 0 when there is none yet")
    reason: TriggerReason
    ts: TimestampMs
    drifts: tuple[str, ...] = ()
    estimated_change: Change | None = None
    approval: Approval = "automatic"
    by: str | None = None
    why: str | None = None
    spec_digest: Sha256


class Command(Event):
    """A person's (or their tool's) request to the registrar. A stale one is refused by an event."""

    command_id: str
    model: ModelName
    action: Action
    ts: TimestampMs
    by: str
    why: str = ""
    generation: int | None = Field(default=None, description="the generation the person saw; absent: any")
    version: Version | None = Field(default=None, description="promote, rollback, pin, block: which one")
    trigger_id: str | None = Field(default=None, description="approve, deny: which trigger")
    manifest_sha256: Sha256 | None = Field(default=None, description="register: the stored manifest's digest")


class CommandResult(Event):
    """The registrar's result of a command. A stale or impossible one is refused, with the reason."""

    command_id: str
    model: ModelName
    action: Action
    status: Literal["done", "refused"]
    reason: str = ""
    generation: int = Field(description="the model's generation after the command")
    ts: TimestampMs
