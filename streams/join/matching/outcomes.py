"""The bytes of an outcome: its prediction's JSON, kept since it was read, followed by the label's.

``model`` is the first field, so that readers of one model filter on a prefix without parsing. No field occurs
twice, because ``reading.events`` keeps the names of both sides apart. It ends in ``"revision":R,"seq":S}``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import orjson

from ....schemas.base import ClassValue, class_name
from ....schemas.errors import DecodeError

MAX_ENCODED_BYTES = 5 << 18

_MAX_CACHED = 4_096
_MAX_CACHED_CHARS = 100  # longer texts are hardly classes


class LabelPayload(msgspec.Struct, frozen=True, gc=False):
    """What a label says, ready to follow any prediction of its id.

    ``name``: of the class, as classes are compared. The bytes are JSON fields: ``label_json`` comes before
    the error; ``right`` and ``wrong`` are it with an error of 0 and 1; ``rest`` comes after the times,
    ``first`` is it with revision 0.
    """

    value: ClassValue
    feedback: bool
    source: str
    name: str
    label_json: bytes
    rest: bytes
    right: bytes
    wrong: bytes
    first: bytes


def outcome_prefix(event: Mapping[str, object]) -> bytes:
    """Return an outcome up to its label. Raises DecodeError for what cannot be encoded again."""
    return encode({"model": event["model"], **event})[:-1]


def encode(value: object) -> bytes:
    """Return it as JSON. Raises DecodeError for what cannot be encoded again: too deep or too large."""
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise DecodeError(f"cannot be carried into an outcome: {error}") from error
    if len(encoded) > MAX_ENCODED_BYTES:
        raise DecodeError(
            f"too large: {len(encoded)} bytes as JSON, at most {MAX_ENCODED_BYTES} can be joined"
        )
    return encoded


def label_payload(
    label: ClassValue | None,
    correct: bool | None,
    source: str,
    annotator: str | None = None,
    extras: Mapping[str, object] | None = None,
) -> LabelPayload:
    """``extras``: more fields of the outcome. Raises DecodeError for what cannot be encoded again."""
    if label is not None and annotator is None and not extras:
        return plain_payload(label, source)
    more: dict[str, object] = {} if annotator is None else {"annotator": annotator}
    more |= extras or {}
    return _payload(label, correct, source, b"," + encode(more)[1:-1] if more else b"")


def plain_payload(label: ClassValue, source: str) -> LabelPayload:
    """Return the payload of a label without more fields: classes are few, so most are cached."""
    key = (type(label), label, source)
    known = _cached.get(key)
    if known is None:
        known = _payload(label, None, source, b"")
        if type(label) is not float and (type(label) is not str or len(label) <= _MAX_CACHED_CHARS):
            if len(_cached) >= _MAX_CACHED:
                _cached.clear()
            _cached[key] = known
    return known


_cached: dict[tuple[type, ClassValue, str], LabelPayload] = {}


def _payload(label: ClassValue | None, correct: bool | None, source: str, more: bytes) -> LabelPayload:
    rest = b',"source":%b%b,"revision":' % (orjson.dumps(source), more)
    if label is None:
        value, feedback, name = correct is True, True, ""
        label_json = b',"correct":true' if value else b',"correct":false'
    else:
        value, feedback, name, label_json = label, False, class_name(label), b',"label":' + encode(label)
    right = label_json + b',"error_value":0,"label_ts":'
    wrong = label_json + b',"error_value":1,"label_ts":'
    return LabelPayload(value, feedback, source, name, label_json, rest, right, wrong, rest + b'0,"seq":')


def outcome_bytes(
    prefix: bytes,
    payload: LabelPayload,
    label_ts: int,
    delay_ms: int,
    error: float | None,
    revision: int,
    seq: int,
) -> bytes:
    """Return one outcome. ``error``: 0 and 1 are written as integers, the shortest form."""
    if error == 0.0:
        label_json = payload.right
    elif error == 1.0:
        label_json = payload.wrong
    elif error is None:
        label_json = payload.label_json + b',"label_ts":'
    else:
        label_json = payload.label_json + b',"error_value":%b,"label_ts":' % orjson.dumps(error)
    return b'%b%b%d,"label_delay_ms":%d%b%d,"seq":%d}' % (
        prefix, label_json, label_ts, delay_ms, payload.rest, revision, seq,
    )  # fmt: skip
