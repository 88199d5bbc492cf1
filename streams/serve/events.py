"""Build the two events that clients emit, checked while the caller can still learn of a mistake."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import get_args

import orjson

from ...schemas.base import END_OF_VERSIONS, MAX_ID_CHARS, MODEL_NAME_PATTERN
from ...schemas.events import MAX_ANNOTATOR_CHARS, MAX_SOURCE_CHARS, Role
from ...schemas.values.event_time import CERTAINLY_BELOW_MS, CERTAINLY_MS, event_time_problem
from .plain_values import InvalidEvent, Plain, plain_class, plain_features, plain_scores, unwrapped

EventDict = dict[str, object]

_MODEL_NAME = re.compile(MODEL_NAME_PATTERN)
_ROLES: tuple[str, ...] = get_args(Role)
_MAX_ERROR = 2_000
_known_models: set[str] = set()  # names that matched, so that the pattern runs once per model


def prediction_event(
    model: str,
    version: int,
    features: dict[str, Plain],
    prediction: object,
    *,
    prediction_id: str,
    ts: int,
    scores: Mapping[str, object] | None = None,
    latency_ms: object = None,
    segments: Mapping[str, object] | None = None,
    role: Role = "champion",
    error: str | None = None,
) -> EventDict:
    """A ``schemas.events.Prediction`` as a dict, absent fields left out. Raises InvalidEvent."""
    if model not in _known_models:
        checked_model(model)
    if type(version) is not int:
        version = _whole_number(version)
    if not 0 <= version < END_OF_VERSIONS:
        raise InvalidEvent(f"version must be an int from 0, got {version!r}")
    event: EventDict = {  # model first, as in an outcome, which can then begin with this payload as it is
        "model": model,
        "prediction_id": checked_id(prediction_id),
        "version": version,
        "ts": checked_ts(ts),
        "features": features,
    }
    if error is not None:
        event["error"] = error[:_MAX_ERROR]
    if error is None or prediction is not None:
        event["prediction"] = plain_class("prediction", prediction)
    if scores is not None:
        event["scores"] = plain_scores(scores)
    if latency_ms is not None:
        known = latency_ms if type(latency_ms) is float else unwrapped(latency_ms)
        if not isinstance(known, (int, float)) or not 0 <= known < math.inf:
            raise InvalidEvent(f"latency_ms must be a number from 0, got {latency_ms!r}")
        event["latency_ms"] = float(known)
    if segments:
        event["segments"] = plain_features(segments, "segment")
    if role != "champion":
        if role not in _ROLES:
            raise InvalidEvent(f"role must be one of {', '.join(_ROLES)}, got {role!r}")
        event["role"] = role
    return event


def label_event(
    prediction_id: str, label: object, *, correct: bool | None, ts: int, source: str, annotator: str | None
) -> EventDict:
    """A ``schemas.events.Label`` as a dict. Raises InvalidEvent."""
    event: EventDict = {"prediction_id": checked_id(prediction_id), "ts": checked_ts(ts)}
    if (label is None) == (correct is None):
        raise InvalidEvent("a label needs exactly one of `label` (what was true) and `correct` (feedback)")
    if label is not None:
        event["label"] = plain_class("label", label)
    else:
        event["correct"] = _true_or_false(correct)
    if not 0 < len(source) <= MAX_SOURCE_CHARS:
        raise InvalidEvent(f"source must have 1 to {MAX_SOURCE_CHARS} characters, got {source[:80]!r}")
    event["source"] = source
    if annotator is not None:
        if len(annotator) > MAX_ANNOTATOR_CHARS:
            raise InvalidEvent(f"annotator must have at most {MAX_ANNOTATOR_CHARS} characters")
        event["annotator"] = annotator
    return event


def encode_event(event: EventDict) -> bytes:
    """JSON bytes. Raises InvalidEvent for text that is not UTF-8 (lone surrogates)."""
    try:
        return orjson.dumps(event)
    except orjson.JSONEncodeError as error:
        raise InvalidEvent(f"the event cannot be written as JSON: {error}") from error


def checked_id(prediction_id: object) -> str:
    """Raise InvalidEvent."""
    if not isinstance(prediction_id, str) or not 0 < len(prediction_id) <= MAX_ID_CHARS:
        raise InvalidEvent(
            f"prediction_id must be text of 1 to {MAX_ID_CHARS} characters, got {str(prediction_id)[:140]!r}"
        )
    return prediction_id


def checked_ts(ts: object) -> int:
    """Raise InvalidEvent."""
    if type(ts) is int and CERTAINLY_MS <= ts < CERTAINLY_BELOW_MS:
        return ts
    ts = unwrapped(ts)
    problem = event_time_problem(ts)
    if problem is not None or type(ts) is not int:
        raise InvalidEvent(f"ts {problem}, got {ts!r}")
    return ts


def _whole_number(version: object) -> int:
    known = unwrapped(version)
    if type(known) is not int:
        raise InvalidEvent(f"version must be an int from 0, got {version!r}")
    return known


def _true_or_false(correct: object) -> bool:
    """Text is refused: "false" is true to Python."""
    known = unwrapped(correct)
    if type(known) is bool or (type(known) in (int, float) and known in (0, 1)):
        return bool(known)
    raise InvalidEvent(f"correct must be True or False, got {correct!r}")


def checked_model(model: object) -> str:
    """Raise InvalidEvent."""
    if not isinstance(model, str) or _MODEL_NAME.fullmatch(model) is None:
        raise InvalidEvent(f"{model!r} is not a model name: letters, digits, '.', '_' and '-', at most 100")
    _known_models.add(model)
    return model
