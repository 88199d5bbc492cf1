"""Read what places and counts an outcome from its first and last bytes, without decoding it whole.

A window holds tens of thousands of rows and most are read twice, so outcomes as the joiner writes them are
recognised by their ends; anything that looks different is parsed. Tests hold both ways to the same answer,
and what counts as a label to what models.rows makes a row of.
"""

from __future__ import annotations

import re
from typing import NamedTuple, cast

import orjson

from ....models.rows import rows_from_outcomes
from ....schemas.errors import DecodeError
from ....schemas.spec.model import ModelSpec
from ....schemas.values.classes import Classes

_TAIL = re.compile(rb'"revision":(\d{1,9}),"seq":(\d{1,15})\}\Z')
_TAIL_BYTES = 60
_ID = b'"prediction_id":"'
_ROLE = b'"role"'
_CHAMPION = b'"role":"champion"'


class OutcomeKey(NamedTuple):
    """Which row, which revision of it, and its place in its partition's error stream."""

    prediction_id: str
    revision: int
    is_shadow: bool
    seq: int

    @property
    def is_row(self) -> bool:
        return self.revision == 0 and not self.is_shadow


def model_prefix(model: str) -> bytes:
    """The bytes that every outcome of a model begins with: ``model`` is the value's first field."""
    return b'{"model":"' + model.encode() + b'",'


def outcome_key(value: bytes, prefix_length: int) -> OutcomeKey:
    """``prefix_length``: of ``model_prefix``. Raises DecodeError for bytes that are not an outcome."""
    tail = _TAIL.search(value[-_TAIL_BYTES:])
    start = prefix_length + len(_ID)
    if tail is None or value[prefix_length:start] != _ID or b"\\" in value:
        return _parsed(value)
    roles = value.count(_ROLE)  # a feature may be called "role" too
    if roles and (roles > 1 or _CHAMPION not in value):
        return _parsed(value)
    try:
        return OutcomeKey(value[start : value.index(b'"', start)].decode(), int(tail[1]), False, int(tail[2]))
    except ValueError as error:
        raise DecodeError(f"Outcome: {error}") from error


def _parsed(value: bytes) -> OutcomeKey:
    fields = _fields(value)
    prediction_id, role = fields.get("prediction_id"), fields.get("role") or "champion"
    revision, seq = fields.get("revision", 0), fields.get("seq")
    if isinstance(prediction_id, str) and _is_whole(revision) and _is_whole(seq):
        return OutcomeKey(prediction_id, cast("int", revision), role == "shadow", cast("int", seq))
    raise DecodeError("Outcome: needs prediction_id, and whole numbers as revision and seq")


class Labels:
    """The rule for which outcomes of a model have a label to train on.

    ``classes``: the champion's, for a spec that declares none.
    """

    def __init__(self, spec: ModelSpec, classes: tuple[str, ...] | None) -> None:
        self._spec = spec
        self._classes = classes
        self._declared = None if spec.classes is None else Classes.of(spec.classes)

    def event_ms(self, value: bytes) -> int | None:
        """The event time of an outcome's label; None where there is nothing to train on."""
        fields = _fields(value)
        ts, label_ts = fields.get("ts"), fields.get("label_ts")
        if not _is_whole(ts) or not _is_whole(label_ts):
            raise DecodeError("Outcome: needs whole numbers as ts and label_ts")
        label = fields.get("label")
        usable = self._is_label(label) if label is not None else self._is_usable_feedback(value)
        return max(cast("int", ts), cast("int", label_ts)) if usable else None

    def _is_label(self, label: object) -> bool:
        if self._spec.task == "regression":
            return isinstance(label, int | float) and not isinstance(label, bool)
        if not isinstance(label, str | int | float | bool):
            return False
        return self._declared is None or self._declared.read(label) is not None

    def _is_usable_feedback(self, value: bytes) -> bool:
        """Feedback may tell the true label or not: deciding that takes the whole row."""
        return bool(rows_from_outcomes((value,), self._spec, classes=self._classes))


def _fields(value: bytes) -> dict[str, object]:
    try:
        fields: object = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"Outcome: {error}") from error
    if not isinstance(fields, dict):
        raise DecodeError("Outcome: not an object")
    return cast("dict[str, object]", fields)


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
