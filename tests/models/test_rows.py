"""What can be learned from an outcome: one row per request, with its truth."""

from __future__ import annotations

from typing import Any

import pytest
from driftloop.models.rows import rows_from_outcomes
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.events import Outcome
from driftloop.schemas.spec.model import Feature, ModelSpec

BINARY = ModelSpec(classes=("late", "on_time"), segments=("origin",))


def outcome(prediction_id: str = "a", **fields: Any) -> bytes:
    base: dict[str, Any] = {
        "model": "m", "prediction_id": prediction_id, "version": 3, "ts": 10, "features": {"x": 1},
        "prediction": "late", "label_ts": 20, "label_delay_ms": 10, "seq": 4,
    }  # fmt: skip
    return Outcome.model_validate({k: v for k, v in {**base, **fields}.items() if v is not None}).encode()


def test_a_label_is_known_by_its_class_name() -> None:
    spec = ModelSpec(classes=("0", "1"))
    rows = rows_from_outcomes([outcome(label=1, prediction=0.0)], spec, partition=5)
    assert [(r.label, r.prediction, r.version, r.seq, r.partition) for r in rows] == [("1", "0", 3, 4, 5)]


@pytest.mark.parametrize("label", [1, 1.0, "1.0", True, "True"])
def test_a_row_has_the_declared_class_whatever_the_label_was_spelled_like(label: Any) -> None:
    (row,) = rows_from_outcomes([outcome(label=label, prediction="0.0")], ModelSpec(classes=("0", "1")))
    assert (row.label, row.prediction) == ("1", "0")
    (down,) = rows_from_outcomes([outcome(correct=False, prediction=label)], ModelSpec(classes=("0", "1")))
    assert down.label == "0"


@pytest.mark.parametrize("value", [True, 1, 1.0])
def test_a_flag_is_one_segment_in_whatever_spelling(value: Any) -> None:
    spec = ModelSpec(segments=("flag",), features={"flag": Feature(type="bool")})
    (row,) = rows_from_outcomes([outcome(label="late", features={"flag": value})], spec)
    (own,) = rows_from_outcomes([outcome(label="late", segments={"flag": value})], spec)
    assert row.segments == own.segments == {"flag": "true"}


def test_the_newest_correction_counts() -> None:
    values = [outcome(label="late"), outcome("b", label="late"), outcome(label="on_time", revision=1)]
    rows = rows_from_outcomes(values, BINARY)
    assert [(r.prediction_id, r.label) for r in rows] == [("a", "on_time"), ("b", "late")]
    assert rows_from_outcomes(reversed(values), BINARY)[0].label == "on_time"


def test_a_shadows_answer_is_no_second_row() -> None:
    rows = rows_from_outcomes(
        [outcome(label="late"), outcome(label="late", role="shadow", version=4)], BINARY
    )
    assert [r.version for r in rows] == [3]


@pytest.mark.parametrize(
    ("fields", "spec", "label"),
    [
        ({"correct": True}, BINARY, "late"),
        ({"correct": False}, BINARY, "on_time"),
        ({"correct": False}, ModelSpec(classes=("a", "late", "on_time")), None),
        ({"correct": False}, ModelSpec(), None),
        ({"correct": True}, ModelSpec(), "late"),
        ({"correct": True, "prediction": None, "error": "boom"}, BINARY, None),
        ({"label": "unheard of"}, BINARY, None),
        ({"label": "late", "prediction": None, "error": "boom"}, BINARY, "late"),
    ],
)
def test_feedback_makes_a_row_only_if_it_tells_the_label(
    fields: dict[str, Any], spec: ModelSpec, label: str | None
) -> None:
    rows = rows_from_outcomes([outcome(**fields)], spec)
    assert [row.label for row in rows] == ([] if label is None else [label])


def test_the_champions_classes_give_a_thumbs_down_its_meaning() -> None:
    rows = rows_from_outcomes([outcome(correct=False)], ModelSpec(), classes=("late", "on_time"))
    assert rows[0].label == "on_time"


def test_a_regression_learns_from_numbers_only() -> None:
    spec = ModelSpec(task="regression")
    values = [
        outcome(label=3, prediction=1.5),
        outcome("b", label="3"),
        outcome("c", label=True),
        outcome("d", correct=True),
    ]
    assert [(r.label, r.prediction) for r in rows_from_outcomes(values, spec)] == [(3.0, 1.5)]


def test_segments_are_the_specs_and_may_be_features() -> None:
    values = [
        outcome(label="late", segments={"origin": "JFK", "other": 1}),
        outcome("b", label="late", features={"origin": 7}),
        outcome("c", label="late"),
    ]
    rows = rows_from_outcomes(values, BINARY)
    assert [row.segments for row in rows] == [{"origin": "JFK"}, {"origin": "7"}, {}]


def test_bytes_that_are_no_outcome_are_named() -> None:
    with pytest.raises(DecodeError, match="Outcome"):
        rows_from_outcomes([b'{"model":"m"}'], BINARY)


def test_feedback_is_read_by_the_champions_classes_in_whatever_spelling() -> None:
    values = [outcome(str(n), correct=False, prediction=answer) for n, answer in enumerate((True, "1.0", 0))]
    rows = rows_from_outcomes(values, ModelSpec(), classes=("0", "1"))
    assert [row.label for row in rows] == ["0", "0", "1"]
