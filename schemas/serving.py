"""Model updates, manifests, and the acknowledgements of servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Event, FeatureValue, ModelName, Sha256, TimestampMs, Version

ArtifactFormat = Literal["onnx", "river-json"]
Task = Literal["classification", "regression"]
FeatureType = Literal["number", "category", "bool"]


class VersionRef(Event):
    """One version, with the digest of its manifest."""

    version: Version
    refresh: int = Field(default=0, ge=0)
    manifest_sha256: Sha256


class Canary(VersionRef):
    """A version that answers a share of the requests."""

    fraction: Annotated[float, Field(gt=0, lt=1)]


class Plan(Event):
    """The desired serving state. No champion: answer 503 or the configured fallback."""

    champion: VersionRef | None = None
    shadows: tuple[VersionRef, ...] = ()
    canary: Canary | None = None


class ModelUpdate(Event):
    """Desired serving state of one model; servers refuse a generation not above their last."""

    model: ModelName
    generation: int = Field(ge=1)
    ts: TimestampMs
    plan: Plan
    last_version: Version = Field(description="the highest version ever allocated, so that none is reused")
    blocked: tuple[int, ...] = Field(default=(), description="versions that must not go live again")
    pinned: bool = Field(default=False, description="no automatic promotion until unpinned")
    cause: str = Field(description="what led here: a run_id or a command_id")
    why: str = ""
    key_id: str = ""
    signature: str = Field(default="", description="base64 Ed25519 over the event's bytes without this field")


class FeatureSpec(Event):
    """One column of the model's input, in order."""

    name: str
    type: FeatureType
    categories: tuple[str, ...] | None = Field(
        default=None, description="category → index in this list; unseen and null → NaN"
    )


class SelfTestRow(Event):
    """A row with the answer that the trainer's own loader computed."""

    features: dict[str, FeatureValue]
    prediction: str | float
    scores: tuple[float, ...] | None = None


class NumberProfile(Event):
    """A reference distribution: quantiles at evenly spaced ranks 0, 1/m, …, 1, and the rows behind them."""

    count: int
    nulls: int
    quantiles: tuple[float, ...]


class CategoryProfile(Event):
    """Reference counts per category. ``count`` and ``nulls`` are of all rows, or of a random half of them."""

    count: int
    nulls: int
    counts: dict[str, int]
    rest: int = Field(
        default=0, description="of names that were seen too, and are too many to be counted each"
    )
    other: int = 0
    seen: str | None = Field(
        default=None,
        description="base64 of a bit per name's CRC-32, modulo their number: which were seen",
    )


class Reference(Event):
    """What was normal when the version was trained: drift is measured against it."""

    rows: int
    accuracy: float | None = Field(default=None, description="classification: on the hold-out")
    mean_error: float | None = Field(default=None, description="regression: mean |y − ŷ| on the hold-out")
    latency_p95_ms: float | None = None
    failure_rate: float = 0.0
    predicted: dict[str, float] | None = Field(default=None, description="share of each predicted class")
    numbers: dict[str, NumberProfile] = Field(default_factory=dict)
    categories: dict[str, CategoryProfile] = Field(default_factory=dict)
    segments: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="mean error per segment value"
    )


class Manifest(Event):
    """The immutable, signed description of one version, stored beside its artifact."""

    model: ModelName
    version: Version
    refresh: int = 0
    parent: Version | None = None
    run_id: str | None = None
    created_ms: TimestampMs
    artifact_sha256: Sha256
    artifact_bytes: int
    format: ArtifactFormat
    task: Task
    classes: tuple[str, ...] | None = None
    features: tuple[FeatureSpec, ...]
    self_test: tuple[SelfTestRow, ...]
    reference: Reference
    learner: str = ""
    spec_digest: str = ""
    key_id: str = ""
    signature: str = Field(default="", description="base64 Ed25519 over the event's bytes without this field")


class ModelAck(Event):
    """A server's acknowledgement of an update: live or refused."""

    server_id: str
    model: ModelName
    version: Version
    refresh: int = 0
    generation: int
    status: Literal["live", "refused"]
    reason: str = ""
    load_ms: float = 0.0
    ts: TimestampMs
