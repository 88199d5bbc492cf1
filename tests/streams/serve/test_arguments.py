"""A caller's mistake is an error at once and by name; what is accepted is what readers accept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from driftloop.schemas.events import Label, Prediction
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient, InvalidEvent
from driftloop.streams.serve.events import encode_event, label_event, prediction_event
from driftloop.streams.serve.plain_values import plain_features
from hypothesis import given
from hypothesis import strategies as st

WRONG_PREDICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"features": {"wind": math.nan}}, "feature wind: is nan; send None"),
    ({"features": {"wind": math.inf}}, "feature wind: is inf"),
    ({"features": {"wind": np.float64("nan")}}, "feature wind: is nan"),
    (
        {"features": {"wind": [1, 2]}},
        "feature wind: must be a number, text, bool or None, got list .*: send each element",
    ),
    ({"features": {"wind": {"a": 1}}}, "feature wind: .*got dict .*: send each of its values by a name"),
    ({"features": {"wind": b"N"}}, "feature wind: .*got bytes .*: decode it"),
    ({"features": {"wind": datetime(2023, 11, 14)}}, "feature wind: .*got datetime .*: send a number"),
    ({"features": {"wind": np.array([1.0])}}, "feature wind: .*got ndarray"),
    ({"features": {"wind": np.datetime64("2013-01-01")}}, "feature wind: .*got datetime64"),
    ({"features": {"wind": 2**63}}, "feature wind: does not fit into 64 bits"),
    ({"features": {7: 1}}, "feature names must be str, got 7"),
    ({"features": {"wind": "\ud800"}}, "cannot be written as JSON"),
    ({"prediction": None}, "prediction is None"),
    ({"prediction": math.nan}, "argument prediction: is nan"),
    ({"prediction_id": ""}, "prediction_id must be text of 1 to 128 characters"),
    ({"prediction_id": "x" * 129}, "prediction_id must be text of 1 to 128"),
    ({"prediction_id": 7}, "prediction_id must be text"),
    ({"model": "no/such"}, "'no/such' is not a model name"),
    ({"model": "ends\n"}, "is not a model name"),
    ({"version": -1}, "version must be an int from 0"),
    ({"version": 1.5}, "version must be an int"),
    ({"ts": 1.5}, "ts must be Unix time in whole milliseconds"),
    ({"ts": -1}, "ts must be Unix time"),
    (
        {"ts": 1_700_000_000},
        "ts is in seconds .2023-11-14 22:13:20 UTC., not in milliseconds: multiply it by",
    ),
    ({"ts": 1_700_000_000_000_000}, "ts is in microseconds .2023-11-14 22:13:20 UTC., not in milliseconds"),
    ({"ts": 1_700_000_000_000_000_000}, "ts is in nanoseconds .2023-11-14 22:13:20 UTC."),
    (
        {"ts": 1_700_000_000.25},
        "ts must be Unix time in whole milliseconds: int.ts . 1000., got 1700000000.25",
    ),
    ({"ts": "1700000000000"}, "ts must be Unix time in whole milliseconds, as a number without quotes"),
    ({"ts": "2023-11-14T22:13:20Z"}, "whole milliseconds, as a number: 1700000000000 for this"),
    ({"ts": datetime(2023, 11, 14)}, "whole milliseconds: int.ts.timestamp.. . 1000."),
    ({"ts": 20_231_114}, "ts is a date in digits, not in milliseconds: 1699920000000 for this"),
    ({"ts": 20_231_114_221_320}, "ts is a date in digits, not in milliseconds: 1700000000000 for this"),
    ({"ts": np.int64(1_700_000_000)}, "ts is in seconds"),
    ({"ts": np.datetime64("2023-11-14T22:13:20")}, "whole milliseconds: int.ts.timestamp"),
    ({"ts": math.nan}, "ts must be Unix time in whole milliseconds, got nan"),
    ({"features": [1.0]}, "features must be a dict, name → value, got list"),
    ({"features": {"wind": Decimal("1.5")}}, "feature wind: .*got Decimal '1.5': send float"),
    ({"scores": [0.5, 0.5]}, "scores must be a dict, class → score, got list"),
    ({"latency_ms": "3"}, "latency_ms must be a number from 0, got '3'"),
    ({"version": "1"}, "version must be an int from 0, got '1'"),
    ({"scores": {"late": math.nan}}, "score late: is nan"),
    ({"scores": {"late": "high"}}, "score late: must be a number"),
    ({"latency_ms": -1.0}, "latency_ms must be a number from 0"),
    ({"latency_ms": math.nan}, "latency_ms must be a number from 0"),
    ({"segments": {"carrier": ["AA"]}}, "segment carrier: must be"),
    ({"role": "king"}, "role must be one of champion, shadow, canary"),
]


@pytest.fixture(scope="module")
def unsent() -> Iterator[EventClient]:
    """A client whose events go nowhere, with rules known."""
    made = EventClient(Connection("127.0.0.1:1", "nowhere.", {"log_level": "0"}), privacy={})
    yield made
    made.close(timeout_s=0.0)


@pytest.mark.parametrize(("wrong", "message"), WRONG_PREDICTIONS)
def test_a_wrong_argument_is_an_error_at_once_and_by_name(
    unsent: EventClient, wrong: dict[str, Any], message: str
) -> None:
    emitted = unsent.stats.emitted
    right: dict[str, Any] = {"model": "m", "version": 1, "features": {"x": 1.0}, "prediction": "late"}
    with pytest.raises(InvalidEvent, match=message):
        unsent.prediction(**(right | wrong))
    assert unsent.stats.emitted == emitted


WRONG_LABELS: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one of `label`"),
    ({"label": "a", "correct": True}, "exactly one of `label`"),
    ({"label": math.nan}, "argument label: is nan"),
    ({"label": ["a"]}, "argument label: must be"),
    ({"label": "a", "prediction_id": ""}, "prediction_id must be text"),
    ({"label": "a", "ts": "now"}, "ts must be Unix time"),
    ({"label": "a", "ts": 1_700_000_000}, "ts is in seconds"),
    ({"label": "a", "source": "x" * 65}, "source must have 1 to 64"),
    ({"label": "a", "source": ""}, "source must have 1 to 64"),
    ({"label": "a", "annotator": "x" * 257}, "annotator must have at most 256"),
    ({"label": "\udfff"}, "cannot be written as JSON"),
    ({"label": "a", "ts": 20_231_114}, "ts is a date in digits"),
    ({"correct": "false"}, "correct must be True or False, got 'false'"),
    ({"correct": 2}, "correct must be True or False, got 2"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_LABELS)
def test_a_wrong_label_is_an_error_at_once(unsent: EventClient, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        unsent.label(**({"prediction_id": "p"} | wrong))


def test_numpys_numbers_are_numbers_wherever_one_is_needed() -> None:
    event = prediction_event(
        "m", np.int64(1), plain_features({"x": np.array(3), "y": np.longdouble(1.5)}), np.str_("late"),
        prediction_id="p", ts=np.int64(1_700_000_000_000), latency_ms=np.float32(3.0),
    )  # fmt: skip
    assert Prediction.decode(encode_event(event)).ts == 1_700_000_000_000
    assert (event["version"], event["features"], event["latency_ms"]) == (1, {"x": 3, "y": 1.5}, 3.0)
    for correct in (True, np.True_, 1, 0, np.False_):
        said = label_event("p", None, correct=correct, ts=1_700_000_000_000, source="user", annotator=None)
        assert said["correct"] is bool(correct)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_among_numbers_the_one_that_cannot_be_sent_is_named_wherever_it_is(wrong: float) -> None:
    names = [f"number_{i}" for i in range(10)]
    for place in names:
        with pytest.raises(InvalidEvent, match=f"feature {place}: is "):
            plain_features({name: wrong if name == place else 1.5 for name in names})
    opposite = {"up": math.inf, "down": -math.inf}
    with pytest.raises(InvalidEvent, match="feature up: is inf"):
        plain_features(opposite)


def test_numbers_whose_sum_is_no_number_travel_all_the_same() -> None:
    largest = {"one": 1.7e308, "two": 1.7e308, "three": -1.0}
    assert plain_features(largest) == largest


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=2),
)


@given(
    st.text(min_size=0, max_size=130), st.dictionaries(st.text(max_size=8), PLAIN, max_size=6), PLAIN,
    st.none() | st.integers(), st.none() | st.dictionaries(st.text(max_size=5), PLAIN, max_size=3),
)  # fmt: skip
def test_whatever_is_accepted_is_what_readers_accept(
    known: str, features: dict[str, Any], answer: Any, ts: int | None, segments: dict[str, Any] | None
) -> None:
    from driftloop.streams.serve.events import encode_event, label_event, prediction_event

    stamp = 5 if ts is None else ts
    try:
        event = prediction_event(
            "m", 1, plain_features(features), answer, prediction_id=known, ts=stamp, segments=segments
        )
        value = encode_event(event)
    except InvalidEvent:
        pass
    else:
        assert Prediction.decode(value).features == features
    try:
        value = encode_event(
            label_event(known, answer, correct=None, ts=stamp, source="system", annotator=None)
        )
    except InvalidEvent:
        return
    assert Label.decode(value).prediction_id == known
