"""The bytes of an outcome: its prediction's JSON, kept from when it was read, and the label's set behind it.

``model`` is the first field, so that readers of one model filter on a prefix without parsing; no field occurs
twice, because ``join_events`` has kept the names of both sides apart; it ends in ``"revision":R,"seq":S}``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import orjson

from ..schemas.hot import LabelDict, PredictionDict
from .join_events import encode_object, label_extras
from .join_records import Held
from .join_rules import Truth

_NAME_CHARS = 100  # a class's name; longer texts are not worth remembering


class Statement(NamedTuple):
    """What a label says, ready to be set behind any prediction of its id."""

    truth: Truth
    said: bytes
    rest: bytes


def prediction_head(event: PredictionDict) -> bytes:
    """What an outcome begins with. Raises DecodeError for what JSON cannot carry on."""
    return encode_object({"model": event["model"], **event})[:-1]


def statement_of(label: LabelDict) -> Statement:
    """Raises DecodeError for what JSON cannot carry on."""
    value = label.get("label")
    source = label.get("source", "system")
    if type(value) is str and len(label) == 3 + ("source" in label) and len(value) <= _NAME_CHARS:
        return _plain_statement(value, source)
    rest = _source_field(source)
    extras = label_extras(label)
    if (annotator := label.get("annotator")) is not None:
        extras = {"annotator": annotator, **extras}
    if extras:
        rest += b"," + encode_object(extras)[1:-1]
    if value is None:
        verdict = label.get("correct") is True
        return Statement(
            Truth(verdict, True, source), b',"correct":true' if verdict else b',"correct":false', rest
        )
    return Statement(Truth(value, False, source), b',"label":' + orjson.dumps(value), rest)


@lru_cache(maxsize=4096)
def _plain_statement(name: str, source: str) -> Statement:
    """A class's name and nothing more, as nearly every label says."""
    return Statement(Truth(name, False, source), b',"label":' + orjson.dumps(name), _source_field(source))


def _source_field(source: str) -> bytes:
    return b',"source":' + orjson.dumps(source)


def outcome_bytes(
    held: Held, statement: Statement, label_ts: int, error: float | None, revision: int, seq: int
) -> bytes:
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
        held.head, statement.said, judged, label_ts, label_ts - held.ts, statement.rest, revision, seq,
    )  # fmt: skip
