"""Bytes that are no event are named: what they are, which field, and what their sender should do."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import zlib
from typing import Any

import orjson
import pytest
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.events import Label, Prediction
from driftloop.schemas.reasons.not_json import why_not_json
from hypothesis import example, given
from hypothesis import strategies as st

EVENT: dict[str, Any] = {
    "prediction_id": "a", "model": "m", "version": 1, "ts": 1_700_000_000_000,
    "features": {"x": 1.5, "hub": "JFK"}, "prediction": "late",
}  # fmt: skip
JSON = orjson.dumps(EVENT)
TEXT = JSON.decode()
NULLS = "send null where a value is missing"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\x00\x00\x00\x00\x2a" + JSON, "registry's five bytes (0, then schema id 42) stand before JSON"),
        (b"\x00\x00\x01\x00\x00\x02a\x06", "schema id 65536) stand before Avro or Protobuf: use a"),
        (b"\x00" * 8 + b"\x07" + JSON, "registry's nine bytes (0, then schema id 7) stand before JSON"),
        (b"\x03\x00" + b"\xaa" * 16 + JSON, "registry's eighteen bytes (3, 0, then schema version aaaa"),
        (b"\x00" * 10, "it is binary, perhaps Avro"),
        (JSON.replace(b"JFK", b"Z\xfcrich"), "features.hub holds byte 0xfc (at 92), which is not UTF-8"),
        (JSON.replace(b"late", b"l\xffte"), "prediction holds byte 0xff"),
        (str(EVENT).encode(), "single quotes: JSON has double ones (json.dumps writes them, str does not)"),
        (b"'text'", "it is in single quotes"),
        (JSON[:-1] + b",}", "a comma too many before character 117"),
        (b"[1,]", "a comma too many"),
        (JSON.replace(b'"features"', b"features"), "a name without double quotes at character 64"),
        (JSON.replace(b'"features"', b"/*new*/features"), "a comment at character 64"),
        (JSON[:40], "it ends in the middle: was it cut?"),
        (JSON + b"\n" + JSON, "send one record"),
        (b"\xef\xbb\xbf" + JSON, "byte order mark"),
        (TEXT.encode("utf-16"), "it is UTF-16: write the text as UTF-8"),
        (TEXT.encode("utf-16-le"), "it is UTF-16"),
        (TEXT.encode("utf-16-be"), "it is UTF-16"),
        (TEXT.encode("utf-32"), "it is UTF-32"),
        (TEXT.encode("utf-32-be"), "it is UTF-32"),
        (gzip.compress(JSON, mtime=0), "compressed with gzip"),
        (zlib.compress(JSON), "compressed with zlib"),
        (bz2.compress(JSON), "compressed with bzip2"),
        (lzma.compress(JSON), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
        (pickle.dumps(EVENT), "a Python pickle: write it with json.dumps"),
        (b"Obj\x01\x04", "an Avro file"),
        (b"\n\x01a\x12\x01m\x18\x01", "it looks like Protobuf"),
        (b"\x08\x96\x01\x12\x01\xff", "it looks like Protobuf"),
        (b"\x85\xadprediction_id", "it looks like MessagePack"),
        (b"\xa6\x6dprediction_id", "it looks like CBOR"),
        (base64.b64encode(JSON), "it is JSON in base64"),
        (b"<prediction/>", "it is XML or HTML"),
        (b"a,m,1,late", "it is other text (got 'a,m,1,late')"),
        (b"NaN", "it is NaN"),
        (b"None", "it is None, Python's None"),
        (b"", "it is empty"),
        (b" \n", "it is empty, but for white space"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' + b"9" * 5_000 + b"x}", "at a (at 5005)"),
    ],
)  # fmt: skip
def test_what_is_not_json_is_named_with_field_and_cure(data: bytes, named: str) -> None:
    assert named in why_not_json(data)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b"NaN", f"features.x is NaN, which JSON does not have: {NULLS}"),
        (b"-Infinity", f"features.x is -Infinity, which JSON does not have: {NULLS}"),
        (b"[0,NaN]", "features.x.1 is NaN"),
        (b"nan", "features.x (at 80) is nan, no JSON value: write null"),
        (b"None", "features.x (at 80) is None, Python's None: write null"),
        (b"True", "features.x (at 80) is True, Python's True: write true"),
        (b"undefined", "features.x (at 80) is undefined, JavaScript's undefined: write null"),
        (b"wide", "features.x (at 80) is wide, text without double quotes"),
        (b"1e999", "features.x is a number beyond 1.8e308"),
        (b"1,5", "a decimal comma? Write a point"),
        (b".5", "Expecting value at features.x (at 80) (got '.5"),
        (b'"\\ud800"', "features.x holds half of a surrogate pair"),
        (b'"a\nb"', "features.x (at 82) holds a line break"),
        (b'"a\\qb"', "features.x (at 82) holds a backslash that begins no escape"),
    ],
)
def test_a_value_that_is_not_json_is_named_with_its_field_and_cure(value: bytes, named: str) -> None:
    assert named in why_not_json(JSON.replace(b"1.5", value))


@given(
    st.one_of(
        st.binary(max_size=60), st.text(max_size=40).map(lambda text: text.encode()), st.text(max_size=40)
    )
)
@example(b"\x00")
@example(b"\x80")
@example("\ud800")
def test_whatever_it_is_there_is_one_line_about_it(data: bytes | str) -> None:
    said = why_not_json(data)
    assert said
    assert "\n" not in said
    assert len(said) < 500


@given(st.integers(0, len(JSON) - 1), st.binary(max_size=3))
def test_a_damaged_event_is_named_whatever_the_damage(at: int, damage: bytes) -> None:
    data = JSON[:at] + damage + JSON[at + 1 :]
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        assert why_not_json(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (EVENT | {"features": {"x": [1, 2]}}, "features.x: a list, and it must be a number, text, true"),
        (EVENT | {"features": {"x": {"a": 1}}}, "features.x: an object, and it must .* by a name of its"),
        (EVENT | {"prediction": {"string": "late"}}, "Prediction: prediction: an object"),
        (EVENT | {"segments": {"hub": []}}, "Prediction: segments.hub: a list"),
        ({"schema": {}, "payload": EVENT}, "prediction_id: Field required; this is Connect's envelope"),
        ({"specversion": "1.0", "data": EVENT}, "this is a CloudEvent"),
        (TEXT, "an object, and this is one within a text: it was encoded twice"),
        ([EVENT, EVENT], "an object, and this is a list: send one record for each element"),
    ],
)  # fmt: skip
def test_json_that_is_no_event_is_named_by_field_with_a_cure(data: Any, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        Prediction.decode(json.dumps(data).encode())


def test_a_label_that_is_no_single_value_is_named() -> None:
    with pytest.raises(DecodeError, match="Label: label: a list, and it must be a number"):
        Label.decode(b'{"prediction_id":"a","ts":1700000000000,"label":["late"]}')
    with pytest.raises(DecodeError, match="Label: label: NaN and infinity are no JSON numbers"):
        Label.decode(b'{"prediction_id":"a","ts":1700000000000,"label":NaN}')
