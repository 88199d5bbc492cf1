"""The reference says what was normal, in numbers that live sketches can be compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from driftloop.models.evaluation.profile import MAX_PROFILED, QUANTILE_STEPS, WELL_SEEN, build_reference
from driftloop.models.formats.features import Row, infer_features
from driftloop.schemas.base import FeatureValue
from driftloop.schemas.serving import CategoryProfile, FeatureSpec, Reference
from driftloop.schemas.spec.model import Feature, ModelSpec
from driftloop.schemas.values.seen_names import SeenNames


def test_features_are_profiled_by_what_occurred() -> None:
    rows = [{"n": i, "c": "a" if i % 4 else "b", "flag": i % 2 == 0, "gone": None} for i in range(1000)]
    rows += [{"n": None, "c": None, "flag": None, "gone": None}] * 10
    features = (*infer_features(ModelSpec(), rows), FeatureSpec(name="gone", type="number"))
    reference = build_reference(rows, features, task="classification")
    number = reference.numbers["n"]
    assert (number.count, number.nulls, len(number.quantiles)) == (1000, 10, QUANTILE_STEPS + 1)
    assert (number.quantiles[0], number.quantiles[50], number.quantiles[-1]) == (0.0, 499.0, 999.0)
    assert set(number.quantiles) <= set(range(1000))
    assert list(number.quantiles) == sorted(number.quantiles)
    assert reference.categories["c"].counts == {"a": 750, "b": 250}
    assert reference.categories["c"].nulls == 10
    assert reference.categories["flag"].counts == {"false": 500, "true": 500}
    assert "gone" not in reference.numbers
    assert (reference.rows, reference.accuracy, reference.predicted) == (1010, None, None)
    assert Reference.decode(reference.encode()) == reference


def category_of(values: Sequence[FeatureValue], spec: ModelSpec | None = None) -> CategoryProfile:
    rows = [{"c": value} for value in values]
    features = infer_features(spec or ModelSpec(), rows)
    return build_reference(rows, features, task="classification").categories["c"]


def test_rare_categories_are_counted_together() -> None:
    often, once = [f"c{i:04d}" for i in range(MAX_PROFILED)], [f"r{i:04d}" for i in range(30)]
    profile = category_of([*often * 40, *once])
    assert set(profile.counts) == set(often)
    assert profile.count == len(often) * 20 + 15  # the half of the rows that did not choose the names
    assert 0 < profile.rest + profile.other <= 30
    assert sum(profile.counts.values()) + profile.rest + profile.other == profile.count


@pytest.mark.parametrize("count", [MAX_PROFILED + 1, 150, 300, 500])
def test_what_is_frequent_by_chance_is_not_taken_for_frequent(count: int) -> None:
    """Of equal values, those that a sample has most of are as frequent as all others."""
    names = np.array([f"c{i:04d}" for i in range(count)])
    shares: list[float] = []
    for seed in range(20):
        profile = category_of(np.random.default_rng(seed).choice(names, 4_000).tolist())
        assert len(profile.counts) == MAX_PROFILED
        shares.append(sum(profile.counts.values()) / profile.count)
    assert np.mean(shares) == pytest.approx(MAX_PROFILED / count, rel=0.03)


def test_equal_counts_are_not_kept_by_name() -> None:
    names = [f"c{i:04d}" for i in range(200)]
    profile = category_of(names * 50)
    assert max(profile.counts) > names[MAX_PROFILED]
    assert profile.rest > 0.4 * profile.count
    assert profile.other == 0
    assert all(name in SeenNames.read(profile.seen or "") for name in names)


def test_a_value_that_is_seen_often_is_named_and_counted_in_all_rows() -> None:
    values = [f"c{i}" for i in range(MAX_PROFILED)] * WELL_SEEN
    profile = category_of([*values, None])
    assert set(profile.counts.values()) == {WELL_SEEN}
    assert (profile.count, profile.nulls) == (len(values), 1)
    assert (profile.rest, profile.other, profile.seen) == (0, 0, None)


def test_a_flag_is_named_true_and_false_whatever_the_rows_have() -> None:
    spec = ModelSpec(features={"c": Feature(type="bool")})
    for true, false in ((True, False), (1, 0), (1.0, 0.0)):
        profile = category_of([true] * 3 + [false] * 7, spec)
        assert profile.counts == {"false": 7, "true": 3}
    assert category_of([True] * 3, spec).counts == {"false": 0, "true": 3}


def test_accuracy_shares_and_segments_are_the_hold_outs() -> None:
    predictions = ["a"] * 30 + ["b"] * 20
    labels = ["a"] * 20 + ["b"] * 30
    segments = [{"s": "x"}] * 25 + [{"s": "y"}] * 24 + [{"s": "tiny"}]
    reference = build_reference(
        [], (), task="classification", holdout_predictions=predictions, holdout_labels=labels,
        holdout_segments=segments, latency_p95_ms=1.5,
    )  # fmt: skip
    assert reference.accuracy == pytest.approx(0.8)
    assert reference.mean_error is None
    assert reference.predicted == {"a": 0.6, "b": 0.4}
    assert reference.segments == {"s": {"x": pytest.approx(0.2), "y": pytest.approx(5 / 24)}}
    assert (reference.latency_p95_ms, reference.failure_rate) == (1.5, 0.0)


def test_a_failed_request_is_wrong_and_counted_as_failed() -> None:
    classes = build_reference(
        [], (), task="classification", holdout_predictions=["a", None], holdout_labels=["a", "a"]
    )
    assert (classes.accuracy, classes.failure_rate) == (0.5, 0.5)
    assert classes.predicted == {"a": 1.0}
    numbers = build_reference(
        [], (), task="regression", holdout_predictions=[1.0, None, 4.0], holdout_labels=[2.0, 2.0, 2.0],
        holdout_segments=[{}, {}, {}],
    )  # fmt: skip
    assert (numbers.mean_error, numbers.failure_rate) == (1.5, pytest.approx(1 / 3))
    assert (numbers.accuracy, numbers.predicted) == (None, None)


def test_the_profile_of_a_sample_is_near_the_profile_of_the_whole() -> None:
    values = np.random.default_rng(1).normal(size=20_000)
    whole = [{"n": float(v)} for v in values]
    feature = (FeatureSpec(name="n", type="number"),)
    one = build_reference(whole, feature, task="regression").numbers["n"].quantiles
    other = build_reference(whole[:4000], feature, task="regression").numbers["n"].quantiles
    assert max(abs(a - b) for a, b in zip(one[5:96], other[5:96], strict=True)) < 0.1


def test_a_flag_that_comes_in_both_spellings_is_one_where_it_is_a_category() -> None:
    """Of two services: the share of each may change any day, so it is not part of the reference."""
    values: list[FeatureValue] = [True, 1, "True", 1.0, False, 0, "0", None] * 50
    rows: list[Row] = [{"flag": value} for value in values]
    (flag,) = infer_features(ModelSpec(features={"flag": Feature(type="category")}), rows)
    assert flag.categories == ("false", "true")
    profile = build_reference(rows, [flag], task="regression").categories["flag"]
    assert (profile.counts, profile.nulls) == ({"false": 150, "true": 200}, 50)
    kinds = infer_features(
        ModelSpec(features={"f": Feature(type="category")}), [{"f": 1}, {"f": "2"}, {"f": True}]
    )
    assert kinds[0].categories == ("1", "2", "true")
