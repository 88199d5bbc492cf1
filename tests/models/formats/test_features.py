"""The same row is the same input everywhere, and a value of the wrong type is named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from driftloop.models.formats.features import MAX_CATEGORIES, FeatureEncoder, FeatureError, infer_features
from driftloop.schemas.base import class_name
from driftloop.schemas.serving import FeatureSpec
from driftloop.schemas.spec.model import ModelSpec
from hypothesis import given
from hypothesis import strategies as st

LARGEST = float(np.finfo(np.float32).max)

NUMBER = FeatureSpec(name="n", type="number")
FLAG = FeatureSpec(name="b", type="bool")
COLOUR = FeatureSpec(name="c", type="category", categories=("1", "green", "red", "true"))

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


def test_declared_features_keep_the_specs_order_and_lose_what_must_not_leave() -> None:
    spec = ModelSpec.model_validate(
        {
            "features": {
                "z": "number",
                "secret": {"type": "category", "privacy": "drop"},
                "who": {"type": "number", "privacy": "hash"},
                "a": "bool",
            }
        }
    )
    features = infer_features(spec, [{"z": 1, "who": "ab12", "a": True, "other": 3}])
    assert [(f.name, f.type) for f in features] == [("z", "number"), ("who", "category"), ("a", "bool")]
    assert features[1].categories == ("ab12",)


def test_undeclared_features_are_typed_by_what_they_hold() -> None:
    rows = [{"n": 1, "b": True, "c": "x", "empty": None}, {"n": 2.5, "b": None, "c": 7}, {"late": 3}]
    features = infer_features(ModelSpec(), rows)
    assert [(f.name, f.type) for f in features] == [
        ("b", "bool"), ("c", "category"), ("late", "number"), ("n", "number"),
    ]  # fmt: skip
    assert features[1].categories == ("7", "x")


def test_one_stray_text_does_not_turn_a_number_into_a_category() -> None:
    rows = [{"n": float(i)} for i in range(200)] + [{"n": "n/a"}]
    (feature,) = infer_features(ModelSpec(), rows)
    assert feature.type == "number"


def test_categories_are_bounded_and_the_frequent_ones_stay() -> None:
    rows = [{"c": f"rare{i}"} for i in range(MAX_CATEGORIES + 50)] + [{"c": "often"}] * 3
    (feature,) = infer_features(ModelSpec(), rows)
    assert feature.categories is not None
    assert len(feature.categories) == MAX_CATEGORIES
    assert "often" in feature.categories
    assert feature.categories == tuple(sorted(feature.categories))


@given(value=values)
def test_every_category_is_its_index_and_everything_else_is_unknown(
    value: bool | int | float | str | None,
) -> None:
    (code,) = FeatureEncoder([COLOUR]).encode([{"c": value}])[0]
    assert COLOUR.categories is not None
    if value is not None and class_name(value) in COLOUR.categories:
        assert COLOUR.categories[int(code)] == class_name(value)
    else:
        assert math.isnan(code)


@given(value=values)
def test_numbers_come_back_as_their_float32_or_are_refused_by_name(
    value: bool | int | float | str | None,
) -> None:
    encoder = FeatureEncoder([NUMBER])
    if isinstance(value, str):
        assert not encoder.accepts({"n": value})
        with pytest.raises(FeatureError, match="feature n: must be a number or null"):
            encoder.encode([{"n": value}])
        return
    assert encoder.accepts({"n": value})
    code = encoder.encode([{"n": value}])[0, 0]
    if value is None:
        assert np.isnan(code)
    else:
        assert code == np.float32(max(-LARGEST, min(LARGEST, value)))


@pytest.mark.parametrize(("value", "code"), [(True, 1.0), (False, 0.0), (1, 1.0), (0.0, 0.0)])
def test_flags_are_nought_or_one(value: bool | int | float, code: float) -> None:
    assert FeatureEncoder([FLAG]).encode([{"b": value}]).tolist() == [[code]]


@pytest.mark.parametrize("value", ["true", 2, 0.5, -1])
def test_what_is_no_flag_is_refused_by_name(value: int | float | str) -> None:
    with pytest.raises(FeatureError, match="feature b: must be true, false or null"):
        FeatureEncoder([FLAG]).encode([{"b": value}])


def test_missing_keys_are_null_and_extra_ones_are_ignored() -> None:
    matrix = FeatureEncoder([NUMBER, COLOUR]).encode([{"unknown": 1}, {"n": 3, "c": "red"}])
    assert np.isnan(matrix[0]).all()
    assert matrix[1].tolist() == [3.0, 2.0]
    assert matrix.dtype == np.float32
    assert FeatureEncoder([NUMBER, COLOUR]).encode([]).shape == (0, 2)
