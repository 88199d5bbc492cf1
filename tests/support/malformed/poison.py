"""Records for predictions and labels that no joiner can use, made in any number from a seed.

Each kind is one mistake that producers make, or that somebody makes on purpose. Kinds that keep a readable id
are keyed by it, so that they lie where the joiner looks for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from driftloop.schemas.topics import LABELS, PREDICTIONS, Topic

Record = tuple[Topic, bytes | None, bytes | None]  # topic, key, value
Maker = Callable[[random.Random, int], tuple[bytes | None, bytes | None]]


NEEDED = ("model", "version", "ts", "features", "prediction")
HALF_A_PAIR = b'{"prediction_id":"\\ud800","ts":1,"label":1}'


def _prediction(i: int, **other: Any) -> dict[str, Any]:
    return {
        "prediction_id": f"poison-{i}", "model": "late", "version": 1, "ts": 1_700_000_000_000 + i,
        "features": {"hour": i % 24, "carrier": "UA"}, "prediction": "late", **other,
    }  # fmt: skip


def _label(i: int, **other: Any) -> dict[str, Any]:
    return {"prediction_id": f"poison-{i}", "ts": 1_700_000_000_000 + i, "label": "late", **other}


def _keyed(event: dict[str, Any]) -> tuple[bytes, bytes]:
    return str(event["prediction_id"]).encode(errors="replace"), orjson.dumps(event)


def _without(event: dict[str, Any], name: str) -> tuple[bytes, bytes]:
    key = str(event["prediction_id"]).encode()
    return key, orjson.dumps({field: value for field, value in event.items() if field != name})


def _cut_off(draw: random.Random, i: int) -> tuple[bytes, bytes]:
    key, value = _keyed(_prediction(i))
    return key, value[: draw.randrange(1, len(value) - 1)]


def _byte_flipped(draw: random.Random, i: int) -> tuple[bytes, bytes]:
    key, value = _keyed(_prediction(i))
    at = value.index(b'"late"') + 1 + draw.randrange(4)
    return key, value[:at] + bytes([draw.randrange(0x80, 0x100)]) + value[at + 1 :]


MAKERS: dict[str, tuple[Topic, Maker]] = {
    "cut off": (PREDICTIONS, _cut_off),
    "not UTF-8": (PREDICTIONS, _byte_flipped),
    "random bytes": (PREDICTIONS, lambda draw, i: (None, b"\xff" + draw.randbytes(draw.randrange(200)))),
    "random bytes as label": (LABELS, lambda draw, i: (b"k%d" % i, b"\x00" + draw.randbytes(40))),
    "empty": (PREDICTIONS, lambda draw, i: (b"k%d" % i, b"")),
    "no value": (LABELS, lambda draw, i: (b"k%d" % i, None)),
    "a list": (LABELS, lambda draw, i: (None, orjson.dumps([_label(i)]))),
    "a number": (PREDICTIONS, lambda draw, i: (None, b"%d" % i)),
    "too deep": (LABELS, lambda draw, i: (None, b"[" * draw.randrange(2_000, 5_000))),
    "NaN": (PREDICTIONS, lambda draw, i: (None, b'{"prediction_id":"p","prediction":NaN}')),
    "two objects": (LABELS, lambda draw, i: (None, orjson.dumps(_label(i)) * 2)),
    "a field is missing": (
        PREDICTIONS,
        lambda draw, i: _without(_prediction(i), draw.choice(NEEDED)),
    ),
    "id is missing": (LABELS, lambda draw, i: _without(_label(i), "prediction_id")),
    "id is empty": (LABELS, lambda draw, i: (b"", orjson.dumps(_label(i, prediction_id="")))),
    "id is too long": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, prediction_id="x" * 129))),
    "id is a number": (LABELS, lambda draw, i: (None, orjson.dumps(_label(i, prediction_id=i)))),
    "half a surrogate pair": (LABELS, lambda draw, i: (None, HALF_A_PAIR)),
    "ts in quotes": (LABELS, lambda draw, i: _keyed(_label(i, ts="1700000000000"))),
    "ts is beyond all time": (PREDICTIONS, lambda draw, i: (None, b'{"prediction_id":"p","ts":%d}' % 10**40)),
    "ts is negative": (LABELS, lambda draw, i: _keyed(_label(i, ts=-1))),
    "version is negative": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, version=-i - 1))),
    "a feature is a list": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, features={"hour": [1]}))),
    "features is a text": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, features="hour=1"))),
    "role is unknown": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, role="king"))),
    "label and feedback": (LABELS, lambda draw, i: _keyed(_label(i, correct=True))),
    "neither": (LABELS, lambda draw, i: _keyed(_label(i, label=None))),
    "model has no spec": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, model=f"none-{i % 50}"))),
    "model is no name": (PREDICTIONS, lambda draw, i: _keyed(_prediction(i, model="../../etc"))),
}  # fmt: skip


def poison(count: int, seed: int, start: int = 0) -> Iterator[Record]:
    """``count`` records, every kind in turn; the same seed gives the same ones."""
    draw = random.Random(seed)
    makers = list(MAKERS.values())
    for i in range(start, start + count):
        topic, make = makers[i % len(makers)]
        yield (topic, *make(draw, i))
