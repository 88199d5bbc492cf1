"""The bytes of an outcome: its prediction's JSON, kept from when it was read, and the label's set behind it.

``model`` is the first field, so that readers of one model filter on a prefix without parsing; no field occurs
twice, because ``join_events`` has kept the names of both sides apart; it ends in ``"revision":R,"seq":S}``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import orjson

from ..schemas.base import ClassValue
from ..schemas.hot import LabelDict, PredictionDict
from .join_events import encode_object, label_extras
from .join_records import Held
from .join_rules import Truth

_NAME_CHARS = 100  # a class's name; longer texts are not worth remembering


class Statement(NamedTuple):
    """A label, ready to be set behind any prediction of its id."""

    truth: Truth
    ts: int
    said: bytes
    rest: bytes


def prediction_head(event: PredictionDict) -> bytes:
    """What an outcome begins with. Raises DecodeError for what JSON cannot carry on."""
    return encode_object({"model": event["model"], **event})[:-1]


def statement_of(label: LabelDict) -> Statement:
    """Raises DecodeError for what JSON cannot carry on."""
    value = label.get("label")
    source = label.get("source", "system")
    if value is None:
        verdict = label.get("correct") is True
        truth, said = Truth(verdict, True, source), b',"correct":true' if verdict else b',"correct":false'
    else:
        truth, said = Truth(value, False, source), _label_field(value)
    rest = _named_source(source)
    if len(label) > 4 or "annotator" in label or "source" not in label:
        extras = label_extras(label)
        if (annotator := label.get("annotator")) is not None:
            extras = {"annotator": annotator, **extras}
        if extras:
            rest += b"," + encode_object(extras)[1:-1]
    return Statement(truth, label["ts"], said, rest)


def outcome_bytes(held: Held, label: Statement, error: float | None, revision: int, seq: int) -> bytes:
    """One outcome. ``error``: 0 and 1 are written as integers, the shortest form."""
    if error is None:
        judged = b""
    elif error == 0.0:
        judged = b',"error_value":0'
    elif error == 1.0:
        judged = b',"error_value":1'
    else:
        judged = b',"error_value":' + orjson.dumps(error)
    return b'%b%b%b,"label_ts":%d,"label_delay_ms":%d%b,"revision":%d,"seq":%d}' % (
        held.head, label.said, judged, label.ts, label.ts - held.ts, label.rest, revision, seq,
    )  # fmt: skip


def _label_field(value: ClassValue) -> bytes:
    if isinstance(value, str) and len(value) <= _NAME_CHARS:
        return _named_class(value)
    return b',"label":' + orjson.dumps(value)


@lru_cache(maxsize=4096)
def _named_class(name: str) -> bytes:
    return b',"label":' + orjson.dumps(name)


@lru_cache(maxsize=4096)
def _named_source(source: str) -> bytes:
    return b',"source":' + orjson.dumps(source)
