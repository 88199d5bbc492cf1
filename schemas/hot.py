"""The fast path for the two hot events: validation into plain dicts, about a third of a model's cost.

Same rules as ``events.Prediction`` and ``events.Label`` (a test holds them to each other); unknown fields
stay in the dict. Strict: a number in quotes is not a number.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .base import ClassValue, FeatureValue, ModelName, PredictionId, TimestampMs, Version, first_reason
from .errors import DecodeError

_CONFIG = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class PredictionDict(TypedDict):
    """A prediction as it lies on the topic; see ``events.Prediction``."""

    __pydantic_config__ = _CONFIG  # pyright: ignore[reportGeneralTypeIssues]  # pydantic's documented hook

    prediction_id: PredictionId
    model: ModelName
    version: Version
    ts: TimestampMs
    features: dict[str, FeatureValue]
    prediction: NotRequired[ClassValue | None]
    scores: NotRequired[dict[str, float] | None]
    latency_ms: NotRequired[Annotated[float, Field(ge=0)] | None]
    error: NotRequired[str | None]
    segments: NotRequired[dict[str, FeatureValue] | None]
    role: NotRequired[Literal["champion", "shadow", "canary"]]


class LabelDict(TypedDict):
    """A label as it lies on the topic; see ``events.Label``."""

    __pydantic_config__ = _CONFIG  # pyright: ignore[reportGeneralTypeIssues]

    prediction_id: PredictionId
    ts: TimestampMs
    label: NotRequired[ClassValue | None]
    correct: NotRequired[bool | None]
    source: NotRequired[Annotated[str, Field(max_length=64)]]
    annotator: NotRequired[Annotated[str, Field(max_length=256)] | None]


_PREDICTION = TypeAdapter(PredictionDict)
_LABEL = TypeAdapter(LabelDict)


def decode_prediction(data: bytes) -> PredictionDict:
    """Raises DecodeError with the reason for the dead letter."""
    try:
        event = _PREDICTION.validate_json(data)
    except ValidationError as error:
        raise DecodeError(first_reason("Prediction", error)) from error
    if event.get("prediction") is None and event.get("error") is None:
        raise DecodeError("Prediction: needs `prediction`, or `error` when the request failed")
    return event


def decode_label(data: bytes) -> LabelDict:
    """Raises DecodeError with the reason for the dead letter."""
    try:
        event = _LABEL.validate_json(data)
    except ValidationError as error:
        raise DecodeError(first_reason("Label", error)) from error
    if (event.get("label") is None) == (event.get("correct") is None):
        raise DecodeError("Label: needs exactly one of `label` and `correct`")
    return event
