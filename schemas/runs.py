"""Training runs: the audit trail. One record per transition; the newest per run_id is kept for ever."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import Event, ModelName, Sha256, TimestampMs, Version
from .decisions import Approval, Change, TriggerReason

RunStatus = Literal["waiting", "training", "evaluating", "promoted", "rejected", "failed", "superseded"]
# Not beside the moves in the trainer's run_lifecycle: the policy reads it too, and no role imports another.
TERMINAL: frozenset[RunStatus] = frozenset({"promoted", "rejected", "failed", "superseded"})


class Lineage(Event):
    """Which rows the candidate was trained and evaluated on."""

    partitions: dict[str, tuple[int, int]] = Field(description="outcomes partition → first and last seq used")
    rows: int
    train_rows: int
    validation_rows: int
    holdout_rows: int
    old_rows: int = Field(description="rows from before the change among those trained on")
    digest: Sha256 = Field(description="sha256 over the rows' identities and labels, in order")


class Interval(Event):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


class GateResult(Event):
    """One gate of the experiment."""

    gate: str
    passed: bool
    reason: str
    value: float | None = None
    threshold: float | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class Progress(Event):
    """How far a waiting run has come, for people and for drivers that pace by it."""

    labels: int
    needed: int
    outcome_offsets: dict[str, int] = Field(description="outcomes partition → next offset to read")


class TrainingRun(Event):
    """A run and its whole evidence, promoted or not."""

    run_id: str
    trigger_id: str
    model: ModelName
    stage: int = Field(description="0, then follow-ups 1, 2, … with more labels after the change")
    status: RunStatus
    reason: TriggerReason
    ts: TimestampMs = Field(description="append or event time that caused this transition")
    champion: Version
    spec_digest: Sha256
    change: Change | None = None
    approval: Approval = Field(default="automatic", description="pending: the run waits for a person")
    trigger_append_ms: int | None = Field(
        default=None, description="append time of the trigger: its window reaches at least that far"
    )
    attempt: int = Field(default=1, description="training that was cut off by the trainer's end starts again")
    why: str = ""
    progress: Progress | None = None
    version: Version | None = Field(default=None, description="set when promoted")
    learner: str | None = None
    parameters: dict[str, Any] | None = None
    seed: int | None = None
    packages: dict[str, str] | None = None
    lineage: Lineage | None = None
    metrics: dict[str, Interval] | None = None
    gates: tuple[GateResult, ...] = ()
    timings_ms: dict[str, float] | None = None
    artifact_sha256: Sha256 | None = None
    manifest_sha256: Sha256 | None = None
