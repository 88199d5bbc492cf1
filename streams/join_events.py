"""From bytes on predictions and labels to events that can be joined, or the reason why they cannot.

A record is accepted iff it is JSON (RFC 8259) in UTF-8, not larger than ``MAX_PAYLOAD_BYTES`` and accepted
by ``schemas.hot``, the judge of what an event may hold. Parsing it twice would cost more than all the rest:
what is plainly right is recognised here on orjson's result; only a doubtful record goes before the judge.
Tests hold both ways to the same verdict.

An outcome carries the fields of its prediction and its label in one object, so names must not meet:
a prediction's own field that is called like one of the outcome's (``label``, ``seq``, ``source`` …) becomes
``prediction_<name>``, and every field of a label that driftloop does not know becomes ``label_<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import orjson

from ..schemas.base import MODEL_NAME_PATTERN
from ..schemas.errors import DecodeError
from ..schemas.hot import LabelDict, PredictionDict, decode_label, decode_prediction

# An outcome holds a prediction and a label and must fit into max.message.bytes, 4 MiB. Encoding can make a
# payload larger than it came: 1e15 becomes 1000000000000000.0.
MAX_PAYLOAD_BYTES = 1 << 20
MAX_ENCODED_BYTES = 5 << 18

_MAX_INT = 2**53
_OBJECT = cast("type[dict[str, Any]]", dict)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_CLASSES = frozenset({str, int, float, bool})
_NUMBERS = frozenset({int, float})
_ROLES = frozenset({"champion", "shadow", "canary"})
_PREDICTION_FIELDS = frozenset(PredictionDict.__annotations__)
_COMMON_FIELDS = _PREDICTION_FIELDS - {"segments", "error"}
_LABEL_FIELDS = frozenset(LabelDict.__annotations__)
# What an outcome has beside its prediction's fields; ``events.Outcome`` is the source, a test compares.
OUTCOME_FIELDS = frozenset(
    {
        "label", "correct", "error_value", "label_ts", "label_delay_ms", "source", "annotator",
        "revision", "seq",
    }
)  # fmt: skip


def read_prediction(data: bytes | None) -> PredictionDict:
    """Raises DecodeError with the reason for the dead letter."""
    event = _parse(data)
    if type(event) is _OBJECT:
        plain: dict[str, Any] = event
        seen = _common_fields(plain)
        if seen == len(plain):
            return plain  # pyright: ignore[reportReturnType]  # checked field by field
        if seen and _are_plain_extras(plain):
            return _apart_from_outcome(plain)
    decode_prediction(data or b"")
    return _apart_from_outcome(event)


def read_label(data: bytes | None) -> LabelDict:
    """Raises DecodeError with the reason for the dead letter."""
    event = _parse(data)
    if type(event) is not _OBJECT or not _is_plain_label(event):
        decode_label(data or b"")
    return event  # pyright: ignore[reportReturnType]  # checked field by field


def label_extras(label: LabelDict) -> dict[str, object]:
    """The label's fields that driftloop does not know, under the names they have in an outcome."""
    extras: dict[str, object] = {}
    for name, value in label.items():
        if name not in _LABEL_FIELDS:
            extra = f"label_{name}"
            while extra in OUTCOME_FIELDS or extra in extras:
                extra = f"label_{extra}"
            extras[extra] = value
    return extras


def encode_object(event: Mapping[str, object]) -> bytes:
    """JSON bytes. Raises DecodeError for what can be read and not written again: too deep or too large."""
    try:
        encoded = orjson.dumps(event)
    except orjson.JSONEncodeError as error:
        raise DecodeError(f"cannot be carried into an outcome: {error}") from error
    if len(encoded) > MAX_ENCODED_BYTES:
        raise DecodeError(
            f"too large: {len(encoded)} bytes as JSON, at most {MAX_ENCODED_BYTES} can be joined"
        )
    return encoded


def _parse(data: bytes | None) -> Any:
    if not data:
        raise DecodeError("empty: a record without a value says nothing")
    if len(data) > MAX_PAYLOAD_BYTES:
        raise DecodeError(f"too large: {len(data)} bytes, at most {MAX_PAYLOAD_BYTES} can be joined")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {error}") from error


@lru_cache(maxsize=4096)
def _is_model_name(name: str) -> bool:
    return re.fullmatch(MODEL_NAME_PATTERN, name) is not None


def _common_fields(e: dict[str, Any]) -> int:
    """How many of the most common fields it has, if all of these are right beyond doubt; else 0."""
    try:
        prediction_id, model, version, ts = e["prediction_id"], e["model"], e["version"], e["ts"]
        features = e["features"]
    except KeyError:
        return 0
    if not (
        type(prediction_id) is str
        and 0 < len(prediction_id) <= 128
        and type(model) is str
        and type(version) is int
        and 0 <= version < 2**31
        and type(ts) is int
        and 0 <= ts < _MAX_INT
        and type(features) is _OBJECT
        and _SCALARS.issuperset(map(type, features.values()))
        and _is_model_name(model)
    ):
        return 0
    answer = e.get("prediction")
    if answer is None:
        if type(e.get("error")) is not str:
            return 0
    elif type(answer) not in _CLASSES:
        return 0
    seen = 5 + ("prediction" in e)
    if (role := e.get("role")) is not None:
        if type(role) is not str or role not in _ROLES:
            return 0
        seen += 1
    if (latency := e.get("latency_ms")) is not None:
        if type(latency) not in _NUMBERS or latency < 0:
            return 0
        seen += 1
    if (scores := e.get("scores")) is not None:
        if type(scores) is not _OBJECT or not _NUMBERS.issuperset(map(type, scores.values())):
            return 0
        seen += 1
    return seen


def _are_plain_extras(e: dict[str, Any]) -> bool:
    """The rarer fields, null ones, and those that driftloop does not know."""
    for name, value in e.items():
        if name in _COMMON_FIELDS and value is not None:
            continue
        if name == "segments":
            if value is not None and not (
                type(value) is _OBJECT and _SCALARS.issuperset(map(type, value.values()))
            ):
                return False
        elif name == "error":
            if value is not None and type(value) is not str:
                return False
        elif name == "role" or type(value) not in _SCALARS:
            return False
    return True


def _is_plain_label(e: dict[str, Any]) -> bool:
    prediction_id, ts = e.get("prediction_id"), e.get("ts")
    if not (
        type(prediction_id) is str
        and 0 < len(prediction_id) <= 128
        and type(ts) is int
        and 0 <= ts < _MAX_INT
    ):
        return False
    label, correct = e.get("label"), e.get("correct")
    if label is None:
        if type(correct) is not bool:
            return False
    elif correct is not None or type(label) not in _CLASSES:
        return False
    seen = 3
    if (source := e.get("source")) is not None:
        if type(source) is not str or len(source) > 64:
            return False
        seen += 1
    return seen == len(e) or _are_plain_label_extras(e)


def _are_plain_label_extras(e: dict[str, Any]) -> bool:
    for name, value in e.items():
        if name == "annotator":
            if value is not None and (type(value) is not str or len(value) > 256):
                return False
        elif type(value) not in _SCALARS or (name == "source" and value is None):
            return False
    return True


def _apart_from_outcome(prediction: dict[str, Any]) -> PredictionDict:
    """With its own fields renamed where an outcome has one of that name."""
    renamed: dict[str, Any] = {}
    for name, value in prediction.items():
        if name not in _PREDICTION_FIELDS and (name in OUTCOME_FIELDS or name.startswith("label_")):
            other = f"prediction_{name}"
            while other in prediction or other in renamed:
                other = f"prediction_{other}"
            renamed[other] = value
        else:
            renamed[name] = value
    return renamed  # pyright: ignore[reportReturnType]  # as it came, but for names of its own
