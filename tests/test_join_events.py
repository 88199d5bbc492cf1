"""What the joiner accepts is what the events' schemas accept, and fields of two records never meet."""

from __future__ import annotations

import string

import orjson
import pytest
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.events import Outcome, Prediction
from driftloop.schemas.hot import decode_label, decode_prediction
from driftloop.streams.join_events import (
    MAX_PAYLOAD_BYTES,
    OUTCOME_FIELDS,
    encode_object,
    label_extras,
    read_label,
    read_prediction,
)
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
    assert accepts(read_prediction, data) == accepts(decode_prediction, data)


@settings(max_examples=600)
@given(label_changes, st.sets(st.sampled_from(sorted(LABEL)), max_size=1))
def test_a_label_is_accepted_if_and_only_if_the_schema_accepts_it(
    changes: dict[str, object], missing: set[str]
) -> None:
    data = orjson.dumps({k: v for k, v in (LABEL | changes).items() if k not in missing})
    assert accepts(read_label, data) == accepts(decode_label, data)


@given(prediction_changes)
def test_what_is_accepted_has_the_values_that_the_schema_reads(changes: dict[str, object]) -> None:
    data = orjson.dumps(
        PREDICTION | changes | {"label": None} if "label" in changes else PREDICTION | changes
    )
    if accepts(decode_prediction, data):
        read, judged = dict(read_prediction(data)), dict(decode_prediction(data))
        assert {k: v for k, v in read.items() if k in PREDICTION} == {
            k: v for k, v in judged.items() if k in PREDICTION
        }


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b'{"prediction_id": "a", "model": "m", ', "not JSON"),
        (b"[1, 2]", "Prediction"),
        (b'"text"', "Prediction"),
        (b"null", "Prediction"),
        (orjson.dumps(PREDICTION).replace(b"1.5", b"NaN"), "not JSON"),
        (orjson.dumps(PREDICTION).replace(b"1.5", b"1e999"), "not JSON"),
        (orjson.dumps(PREDICTION).replace(b"late", b"l\xffte"), "not JSON"),
        (orjson.dumps(PREDICTION).replace(b'"a"', b'"\\ud800"'), "not JSON"),
        (orjson.dumps(PREDICTION | {"ts": "5"}), "ts"),
        (orjson.dumps(PREDICTION | {"version": True}), "version"),
        (orjson.dumps({k: v for k, v in PREDICTION.items() if k != "prediction_id"}), "prediction_id"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "not JSON"),
        (orjson.dumps(PREDICTION)[:-1] + b',"deep":' + b"[" * 230 + b"]" * 230 + b"}", "recursion"),
        (orjson.dumps(PREDICTION | {"features": {"x": "y" * 2_000_000}}), "too large"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(data: bytes | None, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_prediction(data)


def test_what_grows_beyond_a_message_when_written_again_is_refused() -> None:
    numbers = b",".join(b'"f%d":1e15' % i for i in range(70_000))
    data = orjson.dumps(PREDICTION).replace(b'"x":1.5', numbers)
    assert len(data) < MAX_PAYLOAD_BYTES
    with pytest.raises(DecodeError, match="too large"):
        encode_object(read_prediction(data))


def test_the_names_kept_for_outcomes_are_those_of_the_schema() -> None:
    assert set(Outcome.model_fields) - set(Prediction.model_fields) == OUTCOME_FIELDS


def test_a_predictions_own_fields_give_way_to_the_outcomes() -> None:
    event = read_prediction(
        orjson.dumps(PREDICTION | {"source": "web", "label_note": 1, "prediction_source": 2, "note": 3})
    )
    assert event["note"] == 3  # type: ignore[typeddict-item]
    assert event["prediction_source"] == 2  # type: ignore[typeddict-item]
    assert event["prediction_prediction_source"] == "web"  # type: ignore[typeddict-item]
    assert event["prediction_label_note"] == 1  # type: ignore[typeddict-item]
    assert OUTCOME_FIELDS.isdisjoint(event)


def test_a_labels_own_fields_are_prefixed_and_stay_apart() -> None:
    extras = label_extras(read_label(orjson.dumps(LABEL | {"delay_ms": 1, "label_delay_ms": 2, "note": 3})))
    assert extras["label_note"] == 3
    assert sorted(map(str, extras.values())) == ["1", "2", "3"]
    assert OUTCOME_FIELDS.isdisjoint(extras)
