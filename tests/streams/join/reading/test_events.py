"""What the joiner accepts is what the events' schemas accept, and fields of two records never meet."""

from __future__ import annotations

import re
import string

import orjson
import pytest
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.events import Label, Prediction
from driftloop.streams.join.matching.outcomes import outcome_prefix
from driftloop.streams.join.reading.events import (
    label_extras,
    read_label,
    read_labels,
    read_prediction,
    read_predictions,
)
from driftloop.streams.join.reading.plain import MAX_PAYLOAD_BYTES
from driftloop.streams.join.reading.prefixes import OUTCOME_FIELDS
from hypothesis import given, settings
from hypothesis import strategies as st

PREDICTION: dict[str, object] = {
    "prediction_id": "a",
    "model": "m",
    "version": 1,
    "ts": 5,
    "features": {"x": 1.5},
    "prediction": "late",
}
LABEL: dict[str, object] = {"prediction_id": "a", "ts": 5, "label": "late"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
flat = st.dictionaries(st.text(max_size=3), json_values, max_size=3)
prediction_changes = st.fixed_dictionaries(
    {},
    optional={
        "prediction_id": st.text(max_size=130) | json_values,
        "model": st.text(string.ascii_letters + "-. ", max_size=5) | json_values,
        "version": st.integers(-1, 3) | st.just(2**31) | json_values,
        "ts": st.integers(-1, 3) | st.just(2**53) | json_values,
        "features": flat | json_values,
        "prediction": json_values,
        "scores": flat | json_values,
        "latency_ms": st.floats(-1, 1) | json_values,
        "error": json_values,
        "segments": flat | json_values,
        "role": st.sampled_from(["champion", "shadow", "canary", "king"]) | json_values,
        "note": json_values,
        "label": json_values,
    },
)
label_changes = st.fixed_dictionaries(
    {},
    optional={
        "prediction_id": st.text(max_size=130) | json_values,
        "ts": st.integers(-1, 3) | json_values,
        "label": json_values,
        "correct": st.booleans() | json_values,
        "source": st.text(max_size=70) | json_values,
        "annotator": st.text(max_size=3) | json_values,
        "note": json_values,
    },
)


def accepts(read: object, data: bytes) -> bool:
    assert callable(read)
    try:
        read(data)
    except DecodeError:
        return False
    return True


@settings(max_examples=600)
@given(prediction_changes, st.sets(st.sampled_from(sorted(PREDICTION)), max_size=1))
def test_a_prediction_is_accepted_if_and_only_if_the_schema_accepts_it(
    changes: dict[str, object], missing: set[str]
) -> None:
    data = orjson.dumps({k: v for k, v in (PREDICTION | changes).items() if k not in missing})
    assert accepts(read_prediction, data) == accepts(Prediction.parse, data)


@settings(max_examples=600)
@given(label_changes, st.sets(st.sampled_from(sorted(LABEL)), max_size=1))
def test_a_label_is_accepted_if_and_only_if_the_schema_accepts_it(
    changes: dict[str, object], missing: set[str]
) -> None:
    data = orjson.dumps({k: v for k, v in (LABEL | changes).items() if k not in missing})
    assert accepts(read_label, data) == accepts(Label.parse, data)


@settings(max_examples=300)
@given(prediction_changes)
def test_what_is_accepted_has_the_values_that_the_schema_reads(changes: dict[str, object]) -> None:
    data = orjson.dumps(PREDICTION | changes)
    if accepts(Prediction.parse, data):
        read, parsed = read_prediction(data), Prediction.parse(data).model_dump(exclude_unset=True)
        found = {name: getattr(read.event, name) or None for name in Prediction.model_fields}
        assert found == {name: parsed.get(name) or None for name in Prediction.model_fields}
        carried = orjson.loads(read.prefix + b"}")
        assert read.prefix.startswith(b'{"model":"%b"' % read.event.model.encode())
        assert {k: v for k, v in carried.items() if k in Prediction.model_fields} == orjson.loads(
            orjson.dumps({k: v for k, v in parsed.items() if k in Prediction.model_fields})
        )


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(prediction_changes, max_size=4), st.sampled_from([b"", b" ", b"\n", b" {}", b"\n{}"]))
def test_many_predictions_read_at_once_are_what_they_are_one_by_one(
    changes: list[dict[str, object]], tail: bytes
) -> None:
    values = [orjson.dumps(PREDICTION | change) for change in changes] + [orjson.dumps(PREDICTION) + tail]
    refused: dict[int, str] = {}
    events, prefixes = read_predictions(values, refused.__setitem__)
    for index, value in enumerate(values):
        if index in refused:
            assert events[index] is None
            with pytest.raises(DecodeError, match=re.escape(refused[index])):
                read_prediction(value)
        else:
            assert (events[index], prefixes[index]) == read_prediction(value)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(label_changes, max_size=4), st.sampled_from([b"", b" ", b"\n", b" {}", b"\n{}"]))
def test_many_labels_read_at_once_are_what_they_are_one_by_one(
    changes: list[dict[str, object]], tail: bytes
) -> None:
    values = [orjson.dumps(LABEL | change) for change in changes] + [orjson.dumps(LABEL) + tail]
    refused: dict[int, str] = {}
    labels = read_labels(values, refused.__setitem__)
    for index, value in enumerate(values):
        if index in refused:
            assert labels[index] is None
            with pytest.raises(DecodeError, match=re.escape(refused[index])):
                read_label(value)
        else:
            assert labels[index] == read_label(value)


@pytest.mark.parametrize(
    "values", [[b"%b %b", b" "], [b"%b\n%b", b"\n"], [b"%b%b", b""], [b"%b,%b", None], [b'%b {"a":1', b"}%b"]]
)
def test_a_record_with_two_objects_takes_no_other_records_place(values: list[bytes | None]) -> None:
    one = orjson.dumps(PREDICTION)
    records = [one, *(None if value is None else value.replace(b"%b", one) for value in values), one]
    refused: dict[int, str] = {}
    events, _ = read_predictions(records, refused.__setitem__)
    assert [event is None for event in events] == [False, True, True, False]
    assert sorted(refused) == [1, 2]


@pytest.mark.parametrize(
    ("raw", "prefix"),
    [
        (
            b'{"model":"m","prediction_id":"a","version":1,"ts":5000000000,"features":{},"prediction":1}',
            None,
        ),
        (
            b'{"prediction_id":"a","model":"m","version":1,'
            b'"ts":5000000000,"features":{"x":1.50},"prediction":1}',
            b'{"model":"m","prediction_id":"a","version":1,'
            b'"ts":5000000000,"features":{"x":1.50},"prediction":1',
        ),
        (
            b'{"features":{"model":"m","x":1},"prediction_id":"a","model":"m","version":1,'
            b'"ts":5000000000,"prediction":1}',
            b'{"model":"m","features":{"model":"m","x":1},"prediction_id":"a","version":1,'
            b'"ts":5000000000,"prediction":1',
        ),
        (
            b'{"model":"m","prediction_id":"a","version":1,"version":2,'
            b'"ts":5000000000,"features":{},"prediction":1}',
            b'{"model":"m","prediction_id":"a","version":2,"ts":5000000000,"features":{},"prediction":1',
        ),
        (
            b'{"model":"m","prediction_id":"a","version" :1,'
            b'"ts":5000000000,"features":{"x":"a:b"},"prediction":1 } ',
            b'{"model":"m","prediction_id":"a","version":1,'
            b'"ts":5000000000,"features":{"x":"a:b"},"prediction":1',
        ),
    ],
)
def test_an_outcome_begins_with_the_payload_itself_where_that_holds_no_field_twice(
    raw: bytes, prefix: bytes | None
) -> None:
    assert read_prediction(raw).prefix == (raw[:-1] if prefix is None else prefix)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "empty: no value .a tombstone."),
        (b"", "empty: a value of no bytes"),
        (
            b"\x00\x00\x00\x00\x2a" + orjson.dumps(PREDICTION),
            "not JSON: a schema registry.*schema id 42.*before JSON",
        ),
        (
            orjson.dumps(PREDICTION | {"features": {"x": [1, 2]}}),
            "Prediction: features.x: a list, and it must be a",
        ),
        (b'{"prediction_id": "a", "model": "m", ', "not JSON"),
        (b"[1, 2]", "Prediction"),
        (b'"text"', "Prediction"),
        (b"null", "Prediction"),
        (orjson.dumps(PREDICTION).replace(b"1.5", b"NaN"), "not JSON: features.x is NaN"),
        (orjson.dumps(PREDICTION).replace(b"1.5", b"1e999"), "not JSON: features.x is a number beyond"),
        (orjson.dumps(PREDICTION).replace(b"late", b"l\xffte"), "not JSON"),
        (orjson.dumps(PREDICTION).replace(b'"a"', b'"\\ud800"'), "not JSON"),
        (orjson.dumps(PREDICTION | {"ts": "5"}), "ts"),
        (orjson.dumps(PREDICTION | {"version": True}), "version"),
        (orjson.dumps({k: v for k, v in PREDICTION.items() if k != "prediction_id"}), "prediction_id"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "not JSON: it is nested too deeply"),
        (orjson.dumps(PREDICTION)[:-1] + b',"deep":' + b"[" * 230 + b"]" * 230 + b"}", "recursion"),
        (orjson.dumps(PREDICTION | {"features": {"x": "y" * 2_000_000}}), "too large"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(data: bytes | None, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_prediction(data)


@pytest.mark.parametrize("ts", [20_231_114, 20_231_114_221_320, 1_700_000_000])
def test_a_time_that_is_none_in_milliseconds_is_refused_among_many(ts: int) -> None:
    good = [orjson.dumps(PREDICTION | {"ts": 1_700_000_000_000})] * 3
    refused: dict[int, str] = {}
    read_predictions([*good, orjson.dumps(PREDICTION | {"ts": ts})], refused.__setitem__)
    read_labels([orjson.dumps(LABEL | {"ts": ts})], lambda _, reason: refused.update({4: reason}))
    assert list(refused) == [3, 4]
    assert all("not in milliseconds" in reason for reason in refused.values())


def test_what_grows_beyond_a_message_when_written_again_is_refused() -> None:
    numbers = b",".join(b'"f%d":1e15' % i for i in range(70_000))
    data = orjson.dumps(PREDICTION).replace(b'"x":1.5', numbers)
    assert len(data) < MAX_PAYLOAD_BYTES
    with pytest.raises(DecodeError, match="too large"):
        outcome_prefix(orjson.loads(data))


def test_a_predictions_own_fields_give_way_to_the_outcomes() -> None:
    read = read_prediction(
        orjson.dumps(PREDICTION | {"source": "web", "label_note": 1, "prediction_source": 2, "note": 3})
    )
    carried = orjson.loads(read.prefix + b"}")
    assert carried["note"] == 3
    assert carried["prediction_source"] == 2
    assert carried["prediction_prediction_source"] == "web"
    assert carried["prediction_label_note"] == 1
    assert OUTCOME_FIELDS.isdisjoint(carried)


def test_a_labels_own_fields_are_prefixed_and_stay_apart() -> None:
    extras = label_extras(LABEL | {"delay_ms": 1, "label_delay_ms": 2, "note": 3})
    assert extras["label_note"] == 3
    assert sorted(map(str, extras.values())) == ["1", "2", "3"]
    assert OUTCOME_FIELDS.isdisjoint(extras)
