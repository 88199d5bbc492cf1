"""The events of the data plane: predictions, labels, outcomes, dead letters and label requests."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .base import ClassValue, Event, FeatureValue, ModelName, PredictionId, TimestampMs, Version
from .values.event_time import EventTimeMs

MAX_SOURCE_CHARS = 64
MAX_ANNOTATOR_CHARS = 256

Role = Literal["champion", "shadow", "canary"]
DeadLetterAction = Literal["replayed", "dropped"]
NonNegative = Annotated[float, Field(ge=0)]


class Prediction(Event):
    """One answer of one version to one request, or the failure to give one."""

    prediction_id: PredictionId
    model: ModelName
    version: Version
    ts: EventTimeMs
    features: dict[str, FeatureValue]
    prediction: ClassValue | None = None
    scores: dict[str, float] | None = None
    latency_ms: NonNegative | None = None
    error: str | None = Field(default=None, description="the request failed, and why")
    segments: dict[str, FeatureValue] | None = None
    role: Role = "champion"

    @model_validator(mode="after")
    def _answers_or_fails(self) -> Self:
        if self.prediction is None and self.error is None:
            raise ValueError("needs `prediction`, or `error` when the request failed")
        return self


class Label(Event):
    """What turned out to be true of a prediction, or feedback on it."""

    prediction_id: PredictionId
    ts: EventTimeMs
    label: ClassValue | None = Field(default=None, description="ground truth: a class or a number")
    correct: bool | None = Field(default=None, description="feedback on the champion's answer")
    source: str = Field(default="system", max_length=MAX_SOURCE_CHARS)
    annotator: str | None = Field(default=None, max_length=MAX_ANNOTATOR_CHARS)

    @model_validator(mode="after")
    def _truth_or_feedback(self) -> Self:
        if (self.label is None) == (self.correct is None):
            raise ValueError("needs exactly one of `label` and `correct`")
        return self


class Outcome(Event):
    """A prediction met its label. Exactly one per (prediction_id, model, version, role, revision)."""

    model: ModelName
    prediction_id: PredictionId
    version: Version
    role: Role = "champion"
    ts: TimestampMs
    features: dict[str, FeatureValue]
    prediction: ClassValue | None = None
    scores: dict[str, float] | None = None
    latency_ms: NonNegative | None = None
    error: str | None = None
    segments: dict[str, FeatureValue] | None = None
    label: ClassValue | None = None
    correct: bool | None = None
    error_value: NonNegative | None = Field(
        default=None, description="0 or 1 for classes, |y − ŷ| for numbers; absent where no answer was given"
    )
    label_ts: TimestampMs
    label_delay_ms: int = Field(description="label_ts − ts; negative when the producer's clocks disagree")
    source: str = "system"
    annotator: str | None = None
    revision: int = Field(default=0, ge=0)
    seq: int = Field(
        ge=0, description="position in the error stream of this partition; corrections keep theirs"
    )


class DeadLetter(Event):
    """What a stage could not use, whole: it can be read, and replayed once its cause is fixed."""

    id: str = Field(
        description="deterministic: from topic, partition and offset, so that repeats are dropped"
    )
    stage: str = Field(description="which stage refused it: join, monitor, train, registrar, serve")
    topic: str
    partition: int
    offset: int
    append_ms: int
    reason: str
    key_b64: str | None = None
    value_b64: str | None = Field(default=None, description="the original bytes, base64")
    headers_b64: tuple[tuple[str, str | None], ...] | None = Field(
        default=None, description="the original headers, values in base64"
    )
    cut: bool | None = Field(
        default=None,
        description="true: bytes are missing here; the log has them at the offset until its retention ends",
    )


class DeadLetterResolution(Event):
    """A dead letter was resolved: it needs no one's attention any more, and a replay skips it."""

    dead_letter_id: str
    action: DeadLetterAction
    ts: TimestampMs
    by: str
    why: str = ""


class LabelRequest(Event):
    """Please label these: the policy asks where a label would help most."""

    request_id: str
    model: ModelName
    reason: str
    prediction_ids: tuple[PredictionId, ...]
    ts: TimestampMs
