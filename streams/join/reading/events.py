"""Reading predictions and labels: from bytes to events that can be joined, or the reason why they cannot.

A record is accepted iff it is JSON (RFC 8259) in UTF-8, not larger than ``MAX_PAYLOAD_BYTES`` and accepted by
``schemas.events``. Asking the schema costs more than everything else, so plain events are recognised by
msgspec (``reading.plain``); only a doubtful one is left to the schema. Tests hold both ways to the same
result, and the structs to the fields of ``schemas.events``.

An outcome carries the fields of its prediction and its label in one object, so names must not collide: see
``reading.prefixes``, and ``label_extras`` for the fields of a label that driftloop does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import orjson

from ....schemas.errors import DecodeError
from ....schemas.events import Label, Prediction
from ....schemas.reasons.not_json import why_not_json
from ..matching.outcomes import LabelPayload, label_payload, outcome_prefix, plain_payload
from .plain import (
    LABEL,
    MAX_PAYLOAD_BYTES,
    PREDICTION,
    LabelEvent,
    PredictionEvent,
    as_lines,
    decode_all,
    decode_each,
)
from .prefixes import (
    OUTCOME_FIELDS,
    PREDICTION_FIELDS,
    apart_from_outcome,
    is_model_name,
    may_have_prefix,
    prefix_of,
    prefixes_of,
)

_LABEL_FIELDS = frozenset(Label.model_fields)

Refuse = Callable[[int, str], None]


class ReadPrediction(NamedTuple):
    """A prediction. ``prefix``: the JSON of its outcome up to the label, without the closing brace."""

    event: PredictionEvent
    prefix: bytes


class ReadPredictions(NamedTuple):
    """Events and their prefixes; no event where a record was refused."""

    events: list[PredictionEvent | None]
    prefixes: list[bytes]


class ReadLabel(msgspec.Struct, frozen=True, gc=False):
    """What a label says, and about which prediction."""

    prediction_id: str
    ts: int
    payload: LabelPayload


def read_predictions(values: Sequence[bytes | None], refuse: Refuse) -> ReadPredictions:
    """Read a batch. ``refuse`` is called with index and reason where there is no event."""
    lines = as_lines(values)
    whole = decode_all(PREDICTION, lines, len(values))
    if lines is not None and whole is not None:
        cut = prefixes_of(whole, cast("Sequence[bytes]", values), lines)
        if cut is not None:
            return ReadPredictions(cast("list[PredictionEvent | None]", whole), cut)
    events, prefixes = decode_each(PREDICTION, values), [b""] * len(values)
    plain = [
        (place, event, value)
        for place, (event, value) in enumerate(zip(events, values, strict=True))
        if event is not None and value is not None and may_have_prefix(event)
    ]
    payloads = [value for _, _, value in plain]
    cut = prefixes_of([event for _, event, _ in plain], payloads, b"\n".join(payloads))
    if cut is not None:
        for (place, _, _), prefix in zip(plain, cut, strict=True):
            prefixes[place] = prefix
    for place, value in enumerate(values):
        if prefixes[place]:
            continue
        try:
            events[place], prefixes[place] = read_prediction(value)
        except DecodeError as error:
            refuse(place, error.reason)
            events[place] = None
    return ReadPredictions(events, prefixes)


def read_labels(values: Sequence[bytes | None], refuse: Refuse) -> list[ReadLabel | None]:
    """Read a batch. ``refuse`` is called with index and reason where there is no label."""
    whole = _plain_labels(values)
    if whole is not None:
        return cast("list[ReadLabel | None]", whole)
    found: list[ReadLabel | None] = []
    for place, (event, value) in enumerate(zip(decode_each(LABEL, values), values, strict=True)):
        try:
            if event is not None and (event.label is None) != (event.correct is None):
                found.append(ReadLabel(event.prediction_id, event.ts, _payload_of(event)))
            else:
                found.append(read_label(value))
        except DecodeError as error:
            refuse(place, error.reason)
            found.append(None)
    return found


def _plain_labels(values: Sequence[bytes | None]) -> list[ReadLabel] | None:
    """Return all labels; None unless all of them are plain."""
    events = decode_all(LABEL, as_lines(values), len(values))
    if events is None:
        return None
    try:
        return [
            ReadLabel(
                event.prediction_id,
                event.ts,
                plain_payload(event.label, event.source)
                if event.label is not None and event.correct is None and event.annotator is None
                else _payload_of(event),
            )
            for event in events
        ]
    except DecodeError:
        return None


def read_prediction(data: bytes | None) -> ReadPrediction:
    """Read one record. Raises DecodeError with the reason for the dead letter."""
    value = _within_limits(data)
    try:
        event = PREDICTION.decode(value)
        if is_model_name(event.model):
            return ReadPrediction(event, prefix_of(event, value))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # it may have fields of its own: the schema decides
    given = _parse(value)
    Prediction.parse(value)
    known = {name: given[name] for name in PREDICTION_FIELDS if name in given}
    if known.get("latency_ms") is not None:
        known["latency_ms"] = float(known["latency_ms"])
    return ReadPrediction(PredictionEvent(**known), outcome_prefix(apart_from_outcome(given)))


def read_label(data: bytes | None) -> ReadLabel:
    """Read one record. Raises DecodeError with the reason for the dead letter."""
    value = _within_limits(data)
    try:
        event = LABEL.decode(value)
        return ReadLabel(event.prediction_id, event.ts, _payload_of(event))
    except (msgspec.DecodeError, UnicodeDecodeError, DecodeError):
        pass  # it may have fields of its own: the schema decides
    given = _parse(value)
    Label.parse(value)
    payload = label_payload(
        given.get("label"),
        given.get("correct"),
        given.get("source", "system"),
        given.get("annotator"),
        label_extras(given),
    )
    return ReadLabel(given["prediction_id"], given["ts"], payload)


def label_extras(label: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that driftloop does not know, as an outcome names them: ``label_<name>``."""
    extras: dict[str, object] = {}
    for name, value in label.items():
        if name not in _LABEL_FIELDS:
            extra = f"label_{name}"
            while extra in OUTCOME_FIELDS or extra in extras:
                extra = f"label_{extra}"
            extras[extra] = value
    return extras


def _payload_of(event: LabelEvent) -> LabelPayload:
    if (event.label is None) == (event.correct is None):
        raise DecodeError("Label: needs exactly one of `label` and `correct`")
    return label_payload(event.label, event.correct, event.source, event.annotator)


def _within_limits(data: bytes | None) -> bytes:
    if not data:
        what = "no value (a tombstone)" if data is None else "a value of no bytes"
        raise DecodeError(f"empty: {what}: a record that says nothing")
    if len(data) > MAX_PAYLOAD_BYTES:
        raise DecodeError(f"too large: {len(data)} bytes, at most {MAX_PAYLOAD_BYTES} can be joined")
    return data


def _parse(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {why_not_json(data, str(error))}") from error
