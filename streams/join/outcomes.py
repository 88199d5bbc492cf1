"""The bytes of an outcome: its prediction's JSON, kept from when it was read, and the label's set behind it.

``model`` is the first field, so that readers of one model filter on a prefix without parsing; no field occurs
twice, because ``join.events`` has kept the names of both sides apart; it ends in ``"revision":R,"seq":S}``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import orjson

from ...schemas.base import ClassValue, class_name
from ...schemas.errors import DecodeError

MAX_ENCODED_BYTES = 5 << 18

_MOST_REMEMBERED = 4_096
_NAME_CHARS = 100  # a class's name; longer texts are not worth remembering


class Statement(msgspec.Struct, frozen=True, gc=False):
    """What a label says, ready to be set behind any prediction of its id.

    ``name``: of the class, as classes are compared. The bytes are JSON fields: ``said`` before the error,
    ``right`` and ``wrong`` with an error of 0 and 1, ``rest`` behind the times, ``first`` with revision 0.
    """

    value: ClassValue
    verdict: bool
    source: str
    name: str
    said: bytes
    rest: bytes
    right: bytes
    wrong: bytes
    first: bytes


def outcome_head(event: Mapping[str, object]) -> bytes:
    """What an outcome begins with. Raises DecodeError for what can be read and not written again."""
    return encode_object({"model": event["model"], **event})[:-1]


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


def statement_of(
    label: ClassValue | None,
    correct: bool | None,
    source: str,
    annotator: str | None = None,
    extras: Mapping[str, object] | None = None,
) -> Statement:
    """``extras``: more fields of the outcome. Raises DecodeError for what JSON cannot carry on."""
    if label is not None and annotator is None and not extras:
        return said_before(label, source)
    more: dict[str, object] = {} if annotator is None else {"annotator": annotator}
    more |= extras or {}
    return _statement(label, correct, source, b"," + encode_object(more)[1:-1] if more else b"")


def said_before(label: ClassValue, source: str) -> Statement:
    """A plain label's statement: classes are few, so most have been made before."""
    key = (type(label), label, source)
    known = _known.get(key)
    if known is None:
        known = _statement(label, None, source, b"")
        if type(label) is not float and (type(label) is not str or len(label) <= _NAME_CHARS):
            if len(_known) >= _MOST_REMEMBERED:
                _known.clear()
            _known[key] = known
    return known


_known: dict[tuple[type, ClassValue, str], Statement] = {}


def _statement(label: ClassValue | None, correct: bool | None, source: str, more: bytes) -> Statement:
    rest = b',"source":%b%b,"revision":' % (orjson.dumps(source), more)
    if label is None:
        value, verdict, name = correct is True, True, ""
        said = b',"correct":true' if value else b',"correct":false'
    else:
        value, verdict, name, said = label, False, class_name(label), b',"label":' + encode_value(label)
    right, wrong = said + b',"error_value":0,"label_ts":', said + b',"error_value":1,"label_ts":'
    return Statement(value, verdict, source, name, said, rest, right, wrong, rest + b'0,"seq":')


def encode_value(value: ClassValue) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise DecodeError(f"cannot be carried into an outcome: {error}") from error


def outcome_bytes(
    head: bytes,
    statement: Statement,
    label_ts: int,
    delay_ms: int,
    error: float | None,
    revision: int,
    seq: int,
) -> bytes:
    """One outcome. ``error``: 0 and 1 are written as integers, the shortest form."""
    if error == 0.0:
        said = statement.right
    elif error == 1.0:
        said = statement.wrong
    elif error is None:
        said = statement.said + b',"label_ts":'
    else:
        said = statement.said + b',"error_value":%b,"label_ts":' % orjson.dumps(error)
    return b'%b%b%d,"label_delay_ms":%d%b%d,"seq":%d}' % (
        head, said, label_ts, delay_ms, statement.rest, revision, seq,
    )  # fmt: skip
