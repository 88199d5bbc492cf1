"""A feature's value has one name, however it was sent."""

from __future__ import annotations

import numpy as np
import pytest
from driftloop.models.formats.features import FeatureEncoder
from driftloop.models.formats.onnx_inputs import feed_of, read_inputs
from driftloop.models.formats.onnx_session import Port
from driftloop.schemas.base import FeatureValue
from driftloop.schemas.serving import FeatureSpec, FeatureType
from driftloop.schemas.values.feature_values import KnownValues, value_name


@pytest.mark.parametrize(
    ("declared", "values", "name"),
    [
        ("bool", (True, 1, 1.0), "true"),
        ("bool", (False, 0, 0.0, -0.0), "false"),
        ("number", (True, 1, 1.0), "1"),
        ("number", (False, 0, -0.0), "0"),
        ("category", (1, 1.0, "1"), "1"),
        ("category", (True, "true"), "true"),
        (None, (2, 2.0, "2"), "2"),
        ("bool", (2,), "2"),
    ],
)
def test_a_value_has_one_name(
    declared: FeatureType | None, values: tuple[bool | float | str, ...], name: str
) -> None:
    assert {value_name(value, declared) for value in values} == {name}


@pytest.mark.parametrize(
    ("known", "read"),
    [
        (("false", "true"), {"1": "true", "0": "false"}),
        (("true",), {"1": "true"}),
        (("0", "1"), {"true": "1", "false": "0"}),
        (("0", "1", "2"), {}),
        (("1",), {}),  # of a count, most likely
        (("false", "true", "unknown"), {}),
        (("no", "yes"), {}),
        ((), {}),
    ],
)
def test_only_flags_are_true_and_1(known: tuple[str, ...], read: dict[str, str]) -> None:
    values = KnownValues(known)
    others = {"true", "false", "1", "0"}.difference(known)
    assert {name: value for name in others if (value := values[name]) is not None} == read


@pytest.mark.parametrize(
    ("known", "read"),
    [
        (
            ("1", "2", "3"),
            {"1.0": "1", "2.00": "2", " 3": "3", "1e0": "1", "4": None, "01": None, "true": None},
        ),
        (("1.0", "2.0"), {"1": "1.0", "2": "2.0", "1.0": "1.0"}),
        (("1", "1.0"), {"1": "1", "1.0": "1.0", "1.00": None}),
        (("True", "False"), {"true": "True", "false": "False", "TRUE": "True", "1": "True", "0.0": "False"}),
        (("false", "true"), {"True": "true", "FALSE": "false", " true": "true", "1.0": "true"}),
        (("True", "False", "Unknown"), {"true": "True", "1": None, "unknown": None}),
        (("007", "a"), {"7": None, "A": None, "": None, "a" * 1000: None}),
        ((), {"1": None, "true": None}),
    ],
)
def test_a_value_that_is_not_known_by_name_is_read_by_its_number_or_truth(
    known: tuple[str, ...], read: dict[str, str | None]
) -> None:
    values = KnownValues(known)
    assert [values[name] for name in (*known, *read, *read)] == [*known, *read.values(), *read.values()]


@pytest.mark.parametrize(
    ("categories", "sent", "place"),
    [
        (("false", "true"), [True, 1, 1.0, "1", "true"], 1.0),
        (("false", "true"), [False, 0, 0.0, "0", "false"], 0.0),
        (("0", "1"), [True, 1, 1.0, "1", "true"], 1.0),
        (("0", "1", "2"), [True, "true"], np.nan),
        (("0", "1", "2"), [1, "1", "1.0", " 1"], 1.0),
        (("False", "True"), [True, 1, "1", "true", "True", "TRUE "], 1.0),
    ],
)
def test_the_encoder_reads_what_the_monitor_reads(
    categories: tuple[str, ...], sent: list[FeatureValue], place: float
) -> None:
    encode = FeatureEncoder([FeatureSpec(name="c", type="category", categories=categories)]).encode
    assert np.array_equal(encode([{"c": value} for value in sent])[:, 0], [place] * len(sent), equal_nan=True)


@pytest.mark.parametrize("is_matrix", [False, True])
def test_an_onnx_model_of_texts_gets_the_spelling_that_it_knows(is_matrix: bool) -> None:
    shape = (None, 1) if is_matrix else (None,)
    inputs = read_inputs([Port("c", "tensor(string)", shape)])
    for known, others in {
        ("false", "true"): [True, 1, "1"],
        ("0", "1"): [True, 1.0, "true"],
        ("False", "True"): [True, 1.0, "true", "TRUE"],
        ("1.0", "2.0"): [2, 2.0, "2"],
    }.items():
        feed = feed_of(inputs, [FeatureSpec(name="c", type="category", categories=known)])
        (texts,) = feed([{"c": value} for value in (*others, None, "word")]).values()
        assert texts.ravel().tolist() == [known[1]] * len(others) + ["", "word"]
