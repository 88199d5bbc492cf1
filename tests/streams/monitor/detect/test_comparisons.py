"""Comparisons with the reference: the tests against scipy's, and each kind of drift through the core."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from driftloop.schemas.serving import CategoryProfile
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.vitals import CategoryCounts, SegmentErrors
from driftloop.streams.monitor.detect.drift_tests import ReferenceCurve, chi_squared, kolmogorov_smirnov
from driftloop.streams.monitor.detect.live_windows import PointCounts
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.support.monitor.records import (
    MonitorLog,
    bits,
    entry,
    number_profile,
    reference,
    sketch,
    spec_record,
    update_record,
    vitals,
)

Finding = dict[str, object]


def distance(live: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    profile = number_profile(base)
    curve = ReferenceCurve.of(profile.quantiles, profile.count)
    counts = PointCounts.empty(curve.points)
    for part in np.array_split(live, 7):
        counts.add(part.astype(np.float32), curve.points)
    result = kolmogorov_smirnov(curve, counts.below(), counts.upto(), counts.n)
    return result.effect, result.p


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 2.0])
def test_ks_agrees_with_scipys_to_the_resolution_of_the_quantiles(shift: float) -> None:
    source = np.random.default_rng(3)
    base, live = source.normal(size=20_000), source.normal(loc=shift, size=2_000)
    effect, p = distance(live, base)
    exact = stats.ks_2samp(live, base, method="asymp")
    assert exact.statistic - 0.021 <= effect <= exact.statistic
    assert p >= exact.pvalue
    if shift >= 0.5:
        assert p < 1e-6


@pytest.mark.parametrize(
    "base",
    [
        np.repeat([0.0, 1.0], [9_500, 500]),
        np.repeat([0.0, 5.0, 7.0], [3_333, 3_333, 3_334]),
        np.zeros(1_000),
        np.arange(24.0).repeat(400),
    ],
    ids=["rare flag", "three values", "constant", "hours"],
)
def test_ties_and_constants_make_no_distance_of_their_own(base: np.ndarray) -> None:
    live = np.random.default_rng(4).choice(base, size=20_000)
    effect, p = distance(live, base)
    assert effect < 0.01
    assert p > 0.2
    moved, _ = distance(live + 0.5, base)
    assert moved > 0.03


def test_values_beyond_the_reference_are_seen() -> None:
    base = np.random.default_rng(5).normal(size=5_000)
    assert distance(np.full(500, 99.0), base)[0] == pytest.approx(1.0)
    assert distance(np.full(500, -99.0), base)[0] == pytest.approx(1.0)
    assert distance(np.full(500, np.inf), base)[0] == pytest.approx(1.0)


@given(
    st.lists(st.integers(20, 400), min_size=2, max_size=6),
    st.lists(st.integers(20, 400), min_size=2, max_size=6),
)
def test_chi_squared_agrees_with_scipys(a: list[int], b: list[int]) -> None:
    size = min(len(a), len(b))
    names = [f"c{i}" for i in range(size)]
    result = chi_squared(dict(zip(names, a, strict=False)), dict(zip(names, b, strict=False)))
    exact = stats.chi2_contingency(np.array([a[:size], b[:size]]), correction=False)
    assert result.p == pytest.approx(exact.pvalue, rel=1e-9, abs=1e-300)


def test_cramers_v_does_not_shrink_as_the_reference_grows() -> None:
    live = {"a": 1_200.0, "b": 800.0}
    small = chi_squared({"a": 500.0, "b": 500.0}, live)
    large = chi_squared({"a": 500_000.0, "b": 500_000.0}, live)
    assert small.effect == pytest.approx(large.effect)
    assert chi_squared({"a": 100.0}, {"b": 100.0}).effect == pytest.approx(1.0)
    assert chi_squared({"a": 100.0, "b": 100.0}, {"a": 1_000.0, "b": 1_000.0}).effect == pytest.approx(0.0)


# --- each kind through the core ---


def watched(**changes: object) -> MonitorLog:
    log = MonitorLog()
    log.append(spec_record(ModelSpec()))
    log.append(update_record(1, reference(**changes)))
    return log


def drifts(log: MonitorLog, kind: str, severity: str = "alarm") -> list[dict[str, object]]:
    values = [orjson.loads(item.value) for item in log.emitted if item.topic.name == "drift"]
    return [value for value in values if value["kind"] == kind and value["severity"] == severity]


def rows(
    log: MonitorLog, n: int, *, loc: float = 0.0, nulls: int = 0, german: float = 0.5, seed: int = 0
) -> None:
    """``n`` messages of 100 sampled rows each."""
    source = np.random.default_rng(seed)
    for _ in range(n):
        german_rows = int((source.random(100) < german).sum())
        item = entry(
            bits(0.2, 100, seed),
            numbers={"amount": sketch(source.normal(loc=loc, size=100 - nulls), nulls)},
            categories={
                "country": CategoryCounts(count=100, counts={"de": german_rows, "fr": 100 - german_rows})
            },
        )
        log.append(vitals(item))


def test_features_that_stay_raise_no_drift_in_a_hundred_windows() -> None:
    log = watched()
    rows(log, 2_000)
    assert drifts(log, "data") == []


def test_a_number_that_moved_is_one_alarm_with_its_numbers_until_it_comes_back() -> None:
    log = watched()
    rows(log, 40)
    rows(log, 100, loc=0.8)
    (alarm,) = drifts(log, "data")
    assert (alarm["subject"], alarm["detector"]) == ("amount", "ks")
    assert isinstance(alarm["evidence"], dict)
    assert alarm["evidence"]["n"] == 2_000
    assert alarm["evidence"]["p_holm"] < 0.01
    assert 0.25 < float(str(alarm["value"])) < 0.35  # KS of N(0, 1) and N(0.8, 1) is 0.31
    assert alarm["estimated_change"]["partitions"]["0"]["append_ms"] <= log.now_ms - 20_000
    rows(log, 40)
    (back,) = drifts(log, "data", "info")
    assert back["evidence"]["recovered"] is True
    rows(log, 40, loc=0.8)
    assert len(drifts(log, "data")) == 2


def test_a_significant_but_small_move_is_not_drift() -> None:
    log = watched()
    rows(log, 400, loc=0.15)  # KS 0.06: p < 1e-5 in a window, below the minimum effect
    assert drifts(log, "data") == []


def test_categories_and_missing_values_drift_too() -> None:
    log = watched()
    rows(log, 20, german=0.9)
    assert [(d["subject"], d["detector"]) for d in drifts(log, "data")] == [("country", "chi2")]
    log = watched()
    rows(log, 20, nulls=40)
    assert [(d["subject"], d["detector"]) for d in drifts(log, "data")] == [("amount", "nulls")]


def test_an_unknown_category_is_drift() -> None:
    log = watched()
    for _ in range(20):
        counts = CategoryCounts(count=100, counts={"de": 40, "fr": 40, "mars": 20})
        log.append(vitals(entry(bits(0.2, 100, 0), categories={"country": counts})))
    (alarm,) = drifts(log, "data")
    assert alarm["evidence"]["largest_at"] == "(other)"


def test_categories_beyond_the_profiles_bound_are_its_other() -> None:
    profile = CategoryProfile(count=10_000, nulls=0, counts={"de": 5_000}, other=5_000)
    log = watched(categories={"country": profile}, numbers={})
    rows(log, 60)
    assert drifts(log, "data") == []


def test_predictions_that_change_their_shares_are_prediction_drift() -> None:
    log = watched()
    for yes in [30] * 60 + [60] * 60:
        log.append(vitals(entry(bits(0.2, 100, 0), predicted={"no": 100 - yes, "yes": yes})))
    (alarm,) = drifts(log, "prediction")
    assert alarm["evidence"]["live"] == {"no": 0.4, "yes": 0.6}
    assert alarm["evidence"]["reference"] == {"no": 0.7, "yes": 0.3}


def test_classes_that_the_spec_spells_otherwise_by_now_are_the_same_classes() -> None:
    log = MonitorLog()
    log.append(spec_record(ModelSpec(classes=("NO", "Yes"))))
    log.append(update_record(1, reference()))
    for _ in range(60):
        log.append(vitals(entry(bits(0.2, 100, 0), predicted={"NO": 70, "Yes": 30})))
    assert drifts(log, "prediction") == []
    for _ in range(60):
        log.append(vitals(entry(bits(0.2, 100, 0), predicted={"NO": 40, "Yes": 60})))
    (alarm,) = drifts(log, "prediction")
    assert alarm["evidence"]["reference"] == {"NO": 0.7, "Yes": 0.3}


def test_latency_alarms_above_ratio_and_floor_and_recovers() -> None:
    log = watched()
    for p95, messages in ((10.0, 30), (40.0, 30), (10.0, 30)):
        for seed in range(messages):
            latency = np.random.default_rng(seed).random(100) * p95 / 0.95
            log.append(vitals(entry(None, predictions=100, latency=latency)))
    (alarm,) = drifts(log, "latency")
    assert float(str(alarm["value"])) == pytest.approx(40, rel=0.05)
    assert alarm["threshold"] == 20.0
    assert len(drifts(log, "latency", "info")) == 1
    quick = watched(latency_p95_ms=0.5)
    for seed in range(30):
        latency = np.random.default_rng(seed).random(100) * 4
        quick.append(vitals(entry(None, predictions=100, latency=latency)))
    assert drifts(quick, "latency") == []  # four times slower, but below the floor


def test_failing_requests_alarm_once() -> None:
    log = watched()
    for failed in [1] * 50 + [8] * 50:
        log.append(vitals(entry(None, predictions=100, failed=failed)))
    (alarm,) = drifts(log, "failures")
    assert alarm["evidence"]["failed"] == 80
    assert alarm["value"] == 0.08


def test_a_segment_that_falls_behind_the_others_is_fairness_drift() -> None:
    def run(log: MonitorLog, north: float) -> None:
        for i in range(40):
            errors = bits(0.2, 100, i)
            values = {
                "north": SegmentErrors(count=30, error_sum=30 * north),
                "south": SegmentErrors(count=67, error_sum=13.4),
                "tiny": SegmentErrors(count=1, error_sum=1.0),
            }
            log.append(vitals(entry(errors, segments={"region": values})))

    log = watched()
    run(log, north=0.2)
    assert drifts(log, "fairness") == []
    run(log, north=0.4)
    (alarm,) = drifts(log, "fairness")
    assert (alarm["subject"], alarm["evidence"]["worst"]) == ("region", "north")
    harder = watched(segments={"region": {"north": 0.4, "south": 0.2}})
    run(harder, north=0.4)
    assert drifts(harder, "fairness") == []  # it was that much harder when the version was made


def test_without_a_reference_nothing_is_compared() -> None:
    log = MonitorLog()
    log.append(update_record(1, None))
    rows(log, 60, loc=5.0, german=1.0)
    assert drifts(log, "data") == []


def test_answers_of_undeclared_classes_are_counted_by_the_names_of_the_reference() -> None:
    log = MonitorLog()
    log.append(spec_record(ModelSpec()))
    log.append(update_record(1, reference(predicted={"0": 0.7, "1": 0.3})))
    for true, false in [("true", "0"), ("1.0", "false")] * 30:
        log.append(vitals(entry(bits(0.2, 100, 0), predicted={false: 70, true: 30})))
    assert drifts(log, "prediction") == []
    for _ in range(60):
        log.append(vitals(entry(bits(0.2, 100, 0), predicted={"false": 40, "1.0": 60})))
    (alarm,) = drifts(log, "prediction")
    assert alarm["evidence"]["live"] == {"0": 0.4, "1": 0.6}
