"""Cutting an outcome's prefix out of a prediction's payload, so that most need not be encoded again.

The prefix is the payload with ``model`` moved to its front and without its closing brace. A prediction's own
field with the name of an outcome's (``label``, ``seq``, ``source`` …) becomes ``prediction_<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import orjson
from msgspec import UNSET

from ....schemas.base import MODEL_NAME_PATTERN
from ....schemas.errors import DecodeError
from ....schemas.events import Outcome, Prediction
from ..matching.outcomes import outcome_prefix
from .plain import PredictionEvent

PREDICTION_FIELDS = frozenset(Prediction.model_fields)
OUTCOME_FIELDS = frozenset(Outcome.model_fields) - PREDICTION_FIELDS  # what an outcome adds


def prefix_of(event: PredictionEvent, value: bytes) -> bytes:
    """Return the prefix of one prediction.

    It is cut if no field comes twice. Fields are counted by their colons: each has at least one, also one
    that comes twice and is in ``event`` only once. Raises DecodeError for what cannot be encoded again, or
    where an answer is missing.
    """
    if event.prediction is None and event.error is None:
        raise DecodeError("Prediction: needs `prediction`, or `error` when the request failed")
    if value[-1:] == b"}" and value.count(b":") == _fields_of((event,)):
        return _cut_prefix(event, value, _first_field(event.model))
    return outcome_prefix(cast("dict[str, Any]", orjson.loads(value)))


def prefixes_of(
    events: Sequence[PredictionEvent], values: Sequence[bytes], lines: bytes
) -> list[bytes] | None:
    """Return the prefix of each; None if they must be made one by one."""
    first = {model: _first_field(model) for model in {event.model for event in events}}
    if not all(map(is_model_name, first)):
        return None
    unanswered = [event.error for event in events if event.prediction is None]
    if unanswered.count(None):
        return None
    try:
        if lines.count(b":") == _fields_of(events):
            return [
                _cut_prefix(event, value, first[event.model])
                for event, value in zip(events, values, strict=True)
            ]
        return [prefix_of(event, value) for event, value in zip(events, values, strict=True)]
    except DecodeError:
        return None


def may_have_prefix(event: PredictionEvent) -> bool:
    return (event.prediction is not None or event.error is not None) and is_model_name(event.model)


def _fields_of(events: Sequence[PredictionEvent]) -> int:
    """Count their fields, those of their objects included."""
    count = len(events)
    scores = [len(event.scores) + 1 for event in events if event.scores is not None]
    segments = [len(event.segments) + 1 for event in events if event.segments is not None]
    return (
        9 * count
        + sum([len(event.features) for event in events])
        + sum(scores)
        + sum(segments)
        - [event.prediction for event in events].count(None)
        - [event.error for event in events].count(None)
        - [event.latency_ms for event in events].count(None)
        - [event.role for event in events].count(UNSET)
    )


def _cut_prefix(event: PredictionEvent, value: bytes, first: bytes) -> bytes:
    """Cut a payload whose last byte closes it and that has no field twice. ``first``: of the prefix."""
    if value.startswith(first):
        return value[:-1]
    at = value.find(first[1:])
    # Inside a text its quotes would be escaped. A feature or a class may have that name too.
    if (
        at > 0
        and "model" not in event.features
        and not (event.scores and "model" in event.scores)
        and not (event.segments and "model" in event.segments)
    ):
        return first + value[1:at] + value[at + len(first) - 1 : -1]
    return outcome_prefix(cast("dict[str, Any]", orjson.loads(value)))


@lru_cache(maxsize=4096)
def _first_field(model: str) -> bytes:
    return b'{"model":"%b",' % model.encode()


@lru_cache(maxsize=4096)
def is_model_name(name: str) -> bool:
    return re.fullmatch(MODEL_NAME_PATTERN, name) is not None


def apart_from_outcome(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return it with its own fields renamed where an outcome has one of that name."""
    renamed: dict[str, Any] = {}
    for name, value in prediction.items():
        if name not in PREDICTION_FIELDS and (name in OUTCOME_FIELDS or name.startswith("label_")):
            other = f"prediction_{name}"
            while other in prediction or other in renamed:
                other = f"prediction_{other}"
            renamed[other] = value
        else:
            renamed[name] = value
    return renamed
