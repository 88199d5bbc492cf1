"""From bytes on predictions and labels to events that can be joined, or the reason why they cannot.

A record is accepted iff it is JSON (RFC 8259) in UTF-8, not larger than ``MAX_PAYLOAD_BYTES`` and accepted
by ``schemas.events``, the judge of what an event may hold. Asking the judge costs more than all the rest, so
what is plainly right is recognised by msgspec, many records in one call; only a doubtful one goes before the
judge. Tests hold both ways to the same verdict, and the structs below to the fields of ``schemas.events``.

An outcome carries the fields of its prediction and its label in one object, so names must not meet:
a prediction's own field that is called like one of the outcome's (``label``, ``seq``, ``source`` …) becomes
``prediction_<name>``, and every field of a label that driftloop does not know becomes ``label_<name>``.
Most payloads need not be encoded again for that: an outcome's beginning is cut out of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeGuard, TypeVar, cast

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from ....schemas.base import END_OF_TIME_MS, END_OF_VERSIONS, MAX_ID_CHARS, MODEL_NAME_PATTERN
from ....schemas.errors import DecodeError
from ....schemas.events import MAX_ANNOTATOR_CHARS, MAX_SOURCE_CHARS, Label, Outcome, Prediction, Role
from ..outcomes import Statement, outcome_head, said_before, statement_of

# An outcome holds a prediction and a label and must fit into max.message.bytes, 4 MiB. Encoding can make a
# payload larger than it came: 1e15 becomes 1000000000000000.0.
MAX_PAYLOAD_BYTES = 1 << 20

_PREDICTION_FIELDS = frozenset(Prediction.model_fields)
_LABEL_FIELDS = frozenset(Label.model_fields)
OUTCOME_FIELDS = frozenset(Outcome.model_fields) - _PREDICTION_FIELDS  # what an outcome adds

PredictionId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
TimestampMs = Annotated[int, Meta(ge=0, lt=END_OF_TIME_MS)]
# A longer one cannot be written again; not recognised here, it goes to the judge and becomes a float.
PlainInt = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
PlainValue = bool | PlainInt | float | str | None
PlainClass = bool | PlainInt | float | str


class PredictionEvent(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A prediction without fields of its own; see ``events.Prediction``."""

    prediction_id: PredictionId
    model: str
    version: Annotated[int, Meta(ge=0, lt=END_OF_VERSIONS)]
    ts: TimestampMs
    features: dict[str, PlainValue]
    prediction: PlainClass | None = None
    scores: dict[str, float] | None = None
    latency_ms: Annotated[float, Meta(ge=0)] | None = None
    error: str | None = None
    segments: dict[str, PlainValue] | None = None
    role: Role | UnsetType = UNSET


class LabelEvent(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A label without fields of its own; see ``events.Label``."""

    prediction_id: PredictionId
    ts: TimestampMs
    label: PlainClass | None = None
    correct: bool | None = None
    source: Annotated[str, Meta(max_length=MAX_SOURCE_CHARS)] = "system"
    annotator: Annotated[str, Meta(max_length=MAX_ANNOTATOR_CHARS)] | None = None


class ReadPrediction(NamedTuple):
    """``head``: the JSON of its outcome up to the label, without the closing brace."""

    event: PredictionEvent
    head: bytes


class ReadLabel(msgspec.Struct, frozen=True, gc=False):
    """What a label says and of which prediction."""

    prediction_id: str
    ts: int
    statement: Statement


Event = TypeVar("Event", PredictionEvent, LabelEvent)
Refuse = Callable[[int, str], None]

_OPEN, _CLOSE = set(b"{"), set(b"}")

_PREDICTION = msgspec.json.Decoder(PredictionEvent)
_LABEL = msgspec.json.Decoder(LabelEvent)


def read_predictions(
    values: Sequence[bytes | None], refuse: Refuse
) -> tuple[list[PredictionEvent | None], list[bytes]]:
    """Events and their outcomes' heads. ``refuse`` is told index and reason where there is None."""
    whole = _plain_predictions(values)
    if whole is not None:
        return cast("list[PredictionEvent | None]", whole[0]), whole[1]
    events, heads = _decoded_alone(_PREDICTION, values), [b""] * len(values)
    plain = [
        (place, event, value)
        for place, (event, value) in enumerate(zip(events, values, strict=True))
        if event is not None and value is not None and _may_have_head(event)
    ]
    payloads = [value for _, _, value in plain]
    cut = _heads_of([event for _, event, _ in plain], payloads, b"\n".join(payloads))
    if cut is not None:
        for (place, _, _), head in zip(plain, cut, strict=True):
            heads[place] = head
    for place, value in enumerate(values):
        if heads[place]:
            continue
        try:
            events[place], heads[place] = read_prediction(value)
        except DecodeError as error:
            refuse(place, error.reason)
            events[place] = None
    return events, heads


def read_labels(values: Sequence[bytes | None], refuse: Refuse) -> list[ReadLabel | None]:
    """``refuse`` is told index and reason where there is None."""
    whole = _plain_labels(values)
    if whole is not None:
        return cast("list[ReadLabel | None]", whole)
    found: list[ReadLabel | None] = []
    for place, (event, value) in enumerate(zip(_decoded_alone(_LABEL, values), values, strict=True)):
        try:
            if event is not None and (event.label is None) != (event.correct is None):
                found.append(ReadLabel(event.prediction_id, event.ts, _statement_of(event)))
            else:
                found.append(read_label(value))
        except DecodeError as error:
            refuse(place, error.reason)
            found.append(None)
    return found


def _decoded_alone(
    decoder: msgspec.json.Decoder[Event], values: Sequence[bytes | None]
) -> list[Event | None]:
    """Where some of a batch are not plainly right: each event, or None where it is not certain."""
    found: list[Event | None] = []
    rest = iter(values)
    while len(found) < len(values):
        try:
            for value in rest:
                found.append(decoder.decode(value) if _is_braced(value) else None)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.append(None)
    return found


def _plain_predictions(
    values: Sequence[bytes | None],
) -> tuple[list[PredictionEvent], list[bytes]] | None:
    """Events and heads; None where one is not plainly right."""
    lines = _as_lines(values)
    events = None if lines is None else _all_at_once(_PREDICTION, lines, len(values))
    if lines is None or events is None:
        return None
    heads = _heads_of(events, cast("Sequence[bytes]", values), lines)
    return None if heads is None else (events, heads)


def _plain_labels(values: Sequence[bytes | None]) -> list[ReadLabel] | None:
    """None where one is not plainly right."""
    lines = _as_lines(values)
    events = None if lines is None else _all_at_once(_LABEL, lines, len(values))
    if events is None:
        return None
    try:
        return [
            ReadLabel(
                event.prediction_id,
                event.ts,
                said_before(event.label, event.source)
                if event.label is not None and event.correct is None and event.annotator is None
                else _statement_of(event),
            )
            for event in events
        ]
    except DecodeError:
        return None


def read_prediction(data: bytes | None) -> ReadPrediction:
    """Raises DecodeError with the reason for the dead letter."""
    value = _within_limits(data)
    try:
        event = _PREDICTION.decode(value)
        if _is_model_name(event.model):
            return ReadPrediction(event, head_of(event, value))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # it may have fields of its own; the judge decides
    given = _parse(value)
    Prediction.parse(value)
    known = {name: given[name] for name in _PREDICTION_FIELDS if name in given}
    if known.get("latency_ms") is not None:
        known["latency_ms"] = float(known["latency_ms"])
    return ReadPrediction(PredictionEvent(**known), outcome_head(_apart_from_outcome(given)))


def read_label(data: bytes | None) -> ReadLabel:
    """Raises DecodeError with the reason for the dead letter."""
    value = _within_limits(data)
    try:
        event = _LABEL.decode(value)
        return ReadLabel(event.prediction_id, event.ts, _statement_of(event))
    except (msgspec.DecodeError, UnicodeDecodeError, DecodeError):
        pass  # it may have fields of its own; the judge decides
    given = _parse(value)
    Label.parse(value)
    statement = statement_of(
        given.get("label"),
        given.get("correct"),
        given.get("source", "system"),
        given.get("annotator"),
        label_extras(given),
    )
    return ReadLabel(given["prediction_id"], given["ts"], statement)


def label_extras(label: Mapping[str, object]) -> dict[str, object]:
    """The label's fields that driftloop does not know, under the names they have in an outcome."""
    extras: dict[str, object] = {}
    for name, value in label.items():
        if name not in _LABEL_FIELDS:
            extra = f"label_{name}"
            while extra in OUTCOME_FIELDS or extra in extras:
                extra = f"label_{extra}"
            extras[extra] = value
    return extras


def head_of(event: PredictionEvent, value: bytes) -> bytes:
    """The payload with ``model`` moved to its front, if it has no field twice and no space to spare.

    Fields are counted by their colons: each has one at least, also one that comes twice and is in ``event``
    only once. Raises DecodeError for what JSON cannot carry on, or where an answer is missing.
    """
    if event.prediction is None and event.error is None:
        raise DecodeError("Prediction: needs `prediction`, or `error` when the request failed")
    if value[-1:] == b"}" and value.count(b":") == _fields_of((event,)):
        return _cut_head(event, value, _first_field(event.model))
    return outcome_head(cast("dict[str, Any]", orjson.loads(value)))


def _heads_of(events: Sequence[PredictionEvent], values: Sequence[bytes], lines: bytes) -> list[bytes] | None:
    """``head_of`` of each; None where they must be asked one by one."""
    first = {model: _first_field(model) for model in {event.model for event in events}}
    if not all(map(_is_model_name, first)):
        return None
    unanswered = [event.error for event in events if event.prediction is None]
    if unanswered.count(None):
        return None
    try:
        if lines.count(b":") == _fields_of(events):
            return [
                _cut_head(event, value, first[event.model])
                for event, value in zip(events, values, strict=True)
            ]
        return [head_of(event, value) for event, value in zip(events, values, strict=True)]
    except DecodeError:
        return None


def _may_have_head(event: PredictionEvent) -> bool:
    return (event.prediction is not None or event.error is not None) and _is_model_name(event.model)


def _fields_of(events: Sequence[PredictionEvent]) -> int:
    """How many fields they have in all, those of their objects included."""
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


def _cut_head(event: PredictionEvent, value: bytes, first: bytes) -> bytes:
    """For a payload whose last byte closes it and that has no field twice. ``first``: of the head."""
    if value.startswith(first):
        return value[:-1]
    at = value.find(first[1:])
    # In a text its quotes would be escaped. A feature or a class may be called so too.
    if (
        at > 0
        and "model" not in event.features
        and not (event.scores and "model" in event.scores)
        and not (event.segments and "model" in event.segments)
    ):
        return first + value[1:at] + value[at + len(first) - 1 : -1]
    return outcome_head(cast("dict[str, Any]", orjson.loads(value)))


@lru_cache(maxsize=4096)
def _first_field(model: str) -> bytes:
    return b'{"model":"%b",' % model.encode()


@lru_cache(maxsize=4096)
def _is_model_name(name: str) -> bool:
    return re.fullmatch(MODEL_NAME_PATTERN, name) is not None


def _statement_of(event: LabelEvent) -> Statement:
    if (event.label is None) == (event.correct is None):
        raise DecodeError("Label: needs exactly one of `label` and `correct`")
    return statement_of(event.label, event.correct, event.source, event.annotator)


def _as_lines(values: Sequence[bytes | None]) -> bytes | None:
    """One record a line; None where it is not certain that each line is one record and none else.

    Each begins with a brace and ends with one, and no line ends within: so none can go on in the next line,
    and each holds one object at least. If there are as many objects as lines, there is one in each.
    """
    if not values or None in values:
        return None
    whole = cast("Sequence[bytes]", values)
    if max(map(len, whole)) > MAX_PAYLOAD_BYTES:
        return None
    if (
        min(map(len, whole)) == 0
        or {value[0] for value in whole} != _OPEN
        or {value[-1] for value in whole} != _CLOSE
    ):
        return None
    lines = b"\n".join(whole)
    return lines if lines.count(b"\n") == len(whole) - 1 else None


def _is_braced(value: bytes | None) -> TypeGuard[bytes]:
    return bool(value) and len(value) <= MAX_PAYLOAD_BYTES and value[0] in _OPEN and value[-1] in _CLOSE


def _all_at_once(decoder: msgspec.json.Decoder[Event], lines: bytes, count: int) -> list[Event] | None:
    """One event per line; None where one is not plainly right."""
    try:
        events = decoder.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return events if len(events) == count else None


def _within_limits(data: bytes | None) -> bytes:
    if not data:
        raise DecodeError("empty: a record without a value says nothing")
    if len(data) > MAX_PAYLOAD_BYTES:
        raise DecodeError(f"too large: {len(data)} bytes, at most {MAX_PAYLOAD_BYTES} can be joined")
    return data


def _parse(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {error}") from error


def _apart_from_outcome(prediction: Mapping[str, Any]) -> dict[str, Any]:
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
    return renamed
