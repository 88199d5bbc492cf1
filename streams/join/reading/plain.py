"""Recognising plain events: those that msgspec proves right, many records in one call.

The structs here are stricter than ``schemas.events``: they have no fields of the sender's own. What they do
not accept is doubtful, not wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeGuard, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ....schemas.base import END_OF_VERSIONS, MAX_ID_CHARS
from ....schemas.events import MAX_ANNOTATOR_CHARS, MAX_SOURCE_CHARS, Role
from ....schemas.values.event_time import CERTAINLY_BELOW_MS, CERTAINLY_MS

# An outcome holds a prediction and a label and must fit into max.message.bytes, 4 MiB. Encoding can make a
# payload larger than it came: 1e15 becomes 1000000000000000.0.
MAX_PAYLOAD_BYTES = 1 << 20

PredictionId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
TimestampMs = Annotated[int, Meta(ge=CERTAINLY_MS, lt=CERTAINLY_BELOW_MS)]  # others may be in seconds
# A longer one cannot be written again; not recognised here, it is left to the schema and becomes a float.
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


Event = TypeVar("Event", PredictionEvent, LabelEvent)

PREDICTION = msgspec.json.Decoder(PredictionEvent)
LABEL = msgspec.json.Decoder(LabelEvent)

_OPEN, _CLOSE = set(b"{"), set(b"}")


def decode_all(decoder: msgspec.json.Decoder[Event], lines: bytes | None, count: int) -> list[Event] | None:
    """Return one event per line; None unless all of them are plain."""
    if lines is None:
        return None
    try:
        events = decoder.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return events if len(events) == count else None


def decode_each(decoder: msgspec.json.Decoder[Event], values: Sequence[bytes | None]) -> list[Event | None]:
    """Return each event, or None where it is not plain."""
    found: list[Event | None] = []
    rest = iter(values)
    while len(found) < len(values):
        try:
            for value in rest:
                found.append(decoder.decode(value) if _is_braced(value) else None)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.append(None)
    return found


def as_lines(values: Sequence[bytes | None]) -> bytes | None:
    """Return one record per line; None if it is not certain that each line is exactly one record.

    Each begins and ends with a brace and contains no line break, so none can continue in the next line, and
    each holds one object at least. If there are as many objects as lines, there is one in each.
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
