"""Served features against a reference, from vitals to drift: how they are spelled, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from driftloop.models.formats.features import Row
from driftloop.schemas.base import FeatureValue
from driftloop.schemas.serving import FeatureType
from driftloop.schemas.spec.model import Feature, ModelSpec

from tests.support.monitor.served import ServedModel, profile_of, rows_of

REFERENCE_ROWS = 2_000
LIVE_ROWS = 3_600
Spelling = Callable[[bool], FeatureValue]

AS_BOOL: Spelling = bool
AS_INT: Spelling = int
AS_FLOAT: Spelling = float


def flags(count: int, spelled: Spelling, share: float = 0.3, seed: int = 1) -> list[Row]:
    return rows_of("flag", [spelled(bool(one)) for one in np.random.default_rng(seed).random(count) < share])


def declared(kind: FeatureType | None) -> ModelSpec:
    return ModelSpec() if kind is None else ModelSpec(features={"flag": Feature(type=kind)})


@pytest.mark.parametrize("kind", [None, "bool", "number", "category"])
@pytest.mark.parametrize("known", [AS_BOOL, AS_INT, AS_FLOAT])
@pytest.mark.parametrize("live", [AS_BOOL, AS_INT, AS_FLOAT])
def test_a_flag_is_one_value_in_whatever_spelling_it_comes(
    kind: FeatureType | None, known: Spelling, live: Spelling
) -> None:
    served = ServedModel(flags(REFERENCE_ROWS, known), declared(kind))
    served.serve(flags(LIVE_ROWS, live, seed=2))
    assert served.drift() == []


@pytest.mark.parametrize("kind", [None, "bool", "number", "category"])
@pytest.mark.parametrize(("known", "live"), [(AS_BOOL, AS_INT), (AS_INT, AS_BOOL), (AS_FLOAT, AS_BOOL)])
def test_a_flag_that_is_more_often_true_is_drift_in_whatever_spelling(
    kind: FeatureType | None, known: Spelling, live: Spelling
) -> None:
    served = ServedModel(flags(REFERENCE_ROWS, known), declared(kind))
    served.serve(flags(LIVE_ROWS, live, share=0.7, seed=2))
    assert [subject for subject, _ in served.alarms()] == ["flag"]


@pytest.mark.parametrize("kind", ["bool", "number", "category"])
@pytest.mark.parametrize("known", [AS_BOOL, AS_INT, AS_FLOAT])
@pytest.mark.parametrize("live", [AS_BOOL, AS_INT])
def test_a_reference_that_was_read_without_the_spec_has_the_same_values(
    kind: FeatureType, known: Spelling, live: Spelling
) -> None:
    """As that of a registered model is, whose CSV says 1 or true."""
    served = ServedModel(profile_of(flags(REFERENCE_ROWS, known)), declared(kind))
    served.serve(flags(LIVE_ROWS, live, seed=2))
    assert served.drift() == []
    served.serve(flags(LIVE_ROWS, live, share=0.8, seed=3))
    assert [subject for subject, _ in served.alarms()] == ["flag"]


def test_two_services_that_spell_a_flag_differently_are_no_drift() -> None:
    served = ServedModel(flags(REFERENCE_ROWS, AS_BOOL), declared("bool"))
    rows = flags(LIVE_ROWS, AS_BOOL, seed=2)
    mixed: list[Row] = [{"flag": AS_INT(row["flag"] is True)} if i % 2 else row for i, row in enumerate(rows)]
    served.serve(mixed)
    assert served.drift() == []


@pytest.mark.parametrize(
    ("known", "live"),
    [
        ([1, 2, "x"], ["1", "2", "x"]),
        (["1", "2", "x"], [1.0, 2, "x"]),
        (["7", "8"], [7, 8.0]),
        ([16_777_217, 5, "x"], [16_777_217, 5, "x"]),  # more digits than 32 bits hold
        (["0.1", "0.7", "x"], [0.1, 0.7, "x"]),
    ],
)
@pytest.mark.parametrize("kind", [None, "category"])
def test_a_category_of_numbers_is_one_value_as_text_and_as_a_number(
    kind: FeatureType | None, known: Sequence[FeatureValue], live: Sequence[FeatureValue]
) -> None:
    served = ServedModel(rows_of("flag", known * 700), declared(kind))
    served.serve(rows_of("flag", live * 1_200))
    assert served.drift() == []


def test_a_text_where_a_number_should_be_is_missing_as_a_number() -> None:
    amounts = np.random.default_rng(1).normal(size=LIVE_ROWS).tolist()
    served = ServedModel(rows_of("n", amounts[:REFERENCE_ROWS]))
    served.serve(rows_of("n", [str(one) if i % 3 else one for i, one in enumerate(amounts)]))
    (alarm,) = served.drift()
    assert (alarm["subject"], alarm["detector"]) == ("n", "nulls")
    assert alarm["evidence"]["live"]["(text)"] == pytest.approx(2 / 3, abs=0.01)


GONE: dict[str, Callable[[Row], Row]] = {
    "absent": lambda row: {name: value for name, value in row.items() if name != "c"},
    "null": lambda row: row | {"c": None},
    "alone": lambda row: {},
    "renamed": lambda row: {("C" if name == "c" else name): value for name, value in row.items()},
}


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize(
    ("kind", "values"), [("category", ["a", "b"]), ("bool", [True, False]), ("number", [0.5, 1.5, 2.5])]
)
@pytest.mark.parametrize("is_declared", [False, True])
def test_a_feature_that_stops_coming_is_the_loudest_alarm_there_is(
    how: str, kind: FeatureType, values: Sequence[FeatureValue], is_declared: bool
) -> None:
    spec = ModelSpec(features={"c": Feature(type=kind), "x": Feature(type="number")}) if is_declared else None
    normal: list[Row] = [{"c": values[i % len(values)], "x": i % 7} for i in range(2 * REFERENCE_ROWS)]
    served = ServedModel(normal[:REFERENCE_ROWS], spec).serve(normal)
    assert served.drift() == []
    served.serve([GONE[how](row) for row in normal])
    alarms = {alarm["subject"]: alarm for alarm in served.drift()}
    assert alarms["c"]["detector"] == "nulls"
    assert alarms["c"]["value"] > 0.99
    evidence = alarms["c"]["evidence"]
    assert evidence["live"]["(missing)"] == 1.0
    assert evidence["not_in_reference"] == (["C"] if how == "renamed" else [])
    assert set(alarms) == ({"c", "x"} if how == "alone" else {"c"})


def test_a_feature_that_half_of_the_requests_lack_is_missed_too() -> None:
    normal: list[Row] = [{"c": "ab"[i // 2 % 2], "x": i % 7} for i in range(LIVE_ROWS)]
    served = ServedModel(normal[:REFERENCE_ROWS])
    served.serve([row if i % 2 else {"x": row["x"]} for i, row in enumerate(normal)])
    assert served.alarms() == [("c", "nulls")]


def test_a_feature_that_must_not_leave_the_server_is_not_missed() -> None:
    rows: list[Row] = [{"c": "ab"[i % 2], "x": i % 7} for i in range(LIVE_ROWS)]
    spec = ModelSpec(features={"c": Feature(type="category", privacy="drop"), "x": Feature(type="number")})
    served = ServedModel(profile_of(rows[:REFERENCE_ROWS]), spec)
    served.serve([{"x": row["x"]} for row in rows])
    assert served.drift() == []


def test_features_that_were_always_mostly_absent_are_not_missed() -> None:
    rows: list[Row] = [{"c": "a", "x": i % 7} if i % 50 == 0 else {"x": i % 7} for i in range(LIVE_ROWS)]
    served = ServedModel(rows[:REFERENCE_ROWS]).serve(rows)
    assert served.drift() == []


@pytest.mark.parametrize("batch", [150, 600])
def test_features_that_fill_several_messages_are_not_missed(batch: int) -> None:
    """Only the last entry says of how many rows they all are: a window may end between them."""
    names = [f"feature-{number}" for number in range(600)]
    row: Row = {name: number + 0.5 for number, name in enumerate(names)}
    spec = ModelSpec.model_validate({"detectors": {"data": {"window": 400}}})
    served = ServedModel([row] * 100, spec)
    assert len(ServedModel([row] * 100).vitals([row] * 200)) > 1
    served.serve([row] * 1_200, batch=batch)
    assert served.drift() == []
    served.serve([{name: value for name, value in row.items() if name != "feature-7"}] * 1_200, batch=batch)
    assert served.alarms() == [("feature-7", "nulls")]
