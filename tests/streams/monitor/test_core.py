"""The monitor's core: drift from error streams, dead letters, and decisions that replay byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from driftloop.schemas.control import TickControl
from driftloop.schemas.serving import Reference
from driftloop.schemas.spec.model import ModelSpec

from tests.support.monitor.output import drifts, live, triggers
from tests.support.monitor.records import (
    MonitorLog,
    bits,
    electricity_errors,
    reference,
    run_record,
    update_record,
)
from tests.support.paths import ELEC2

# --- drift of the error ---


def test_an_abrupt_change_is_dated_to_some_tens_of_outcomes_and_triggers_once() -> None:
    log = live()
    log.stream(bits(0.2, 3_000, 1))
    assert log.emitted == []
    emitted = log.stream(bits(0.5, 1_500, 2))
    concept = [drift for drift in drifts(emitted) if drift.kind == "concept"]
    assert sorted(drift.detector for drift in concept) == ["adwin", "page-hinkley"]
    for drift in concept:
        assert drift.estimated_change is not None
        assert abs(drift.estimated_change.partitions["0"].seq - 3_000) <= 50
        assert drift.evidence["before"]["mean_error"] == pytest.approx(0.2, abs=0.03)
        assert drift.evidence["after"]["mean_error"] == pytest.approx(0.5, abs=0.1)
        assert drift.value >= drift.threshold
    (trigger,) = triggers(emitted)
    assert trigger.reason == "drift"
    assert trigger.version == 1
    assert set(trigger.drifts) <= {drift.drift_id for drift in drifts(emitted)}
    assert trigger.estimated_change is not None
    assert abs(trigger.estimated_change.partitions["0"].seq - 3_000) <= 50


def test_a_fall_of_the_error_is_recorded_and_alarms_nobody() -> None:
    log = live(ref=reference(accuracy=0.5))
    log.stream(bits(0.5, 3_000, 1))
    emitted = log.stream(bits(0.2, 2_000, 2))
    assert drifts(emitted) == []
    assert triggers(emitted) == []
    recorded = drifts(emitted, "info")
    assert recorded
    assert all(drift.value < 0 for drift in recorded)


def test_a_lasting_condition_is_one_alarm_and_a_new_one_after_it_recovered() -> None:
    log = live()
    log.stream(bits(0.2, 3_000, 1))
    log.stream(bits(0.5, 12_000, 2))
    once = drifts(log.emitted)
    assert sorted(drift.detector for drift in once) == ["adwin", "page-hinkley", "rolling-accuracy"]
    log.stream(bits(0.2, 5_000, 3))
    assert len(drifts(log.emitted)) == len(once)
    recovered = [drift for drift in drifts(log.emitted, "info") if drift.evidence.get("recovered")]
    assert sorted(drift.detector for drift in recovered) == ["adwin", "page-hinkley", "rolling-accuracy"]
    log.stream(bits(0.5, 3_000, 4))
    again = drifts(log.emitted)[len(once) :]
    assert sorted(drift.detector for drift in again) == ["adwin", "page-hinkley", "rolling-accuracy"]


def test_an_acknowledged_condition_is_silent_until_it_gets_worse() -> None:
    log = live()
    log.stream(bits(0.2, 3_000, 1))
    (trigger,) = triggers(log.stream(bits(0.4, 3_000, 2)))
    log.append(run_record(trigger.trigger_id, "rejected"))
    known = len(drifts(log.emitted))
    log.stream(bits(0.4, 3_000, 3))
    assert len(drifts(log.emitted)) == known
    worse = drifts(log.stream(bits(0.7, 2_000, 4)))
    assert {drift.detector for drift in worse} == {"adwin", "page-hinkley", "rolling-accuracy"}


def test_the_rolling_rule_fires_five_points_below_the_reference_and_not_before() -> None:
    only = ModelSpec.model_validate(
        {"detectors": {"adwin": {"enabled": False}, "page_hinkley": {"enabled": False}}}
    )
    log = live(spec=only)
    log.stream(bits(0.2, 5_000, 1))
    assert drifts(log.emitted) == []
    emitted = log.stream(bits(0.30, 3_000, 2))
    (drift,) = drifts(emitted)
    assert (drift.kind, drift.detector) == ("accuracy", "rolling-accuracy")
    assert drift.value <= drift.threshold == 0.75
    assert drift.evidence["window"] == 1_000
    assert drift.estimated_change is not None
    assert abs(drift.estimated_change.partitions["0"].seq - 5_000) <= 600


def test_a_small_holdout_must_be_left_by_more_than_its_own_noise() -> None:
    log = live(ref=reference(rows=300))  # a hold-out of 90 rows: two standard errors are nine points
    log.stream(bits(0.24, 4_000, 1))
    assert drifts(log.emitted) == []


def test_a_refresh_keeps_the_detectors_and_a_version_starts_new_ones() -> None:
    kept, renewed = live(), live()
    for log in (kept, renewed):
        log.stream(bits(0.2, 2_900, 1))
    kept.append(update_record(1, reference(), refresh=1))
    renewed.append(update_record(2, reference()))
    kept.stream(bits(0.6, 150, 2))
    renewed.stream(bits(0.6, 150, 2), version=2)
    assert [drift.kind for drift in drifts(kept.emitted)]
    assert drifts(renewed.emitted, None) == []  # nothing but high errors were ever seen of version 2


def test_a_version_that_returns_by_rollback_starts_afresh() -> None:
    log = live()
    log.stream(bits(0.2, 2_000, 1))
    log.stream(bits(0.6, 800, 2))
    assert drifts(log.emitted)
    log.append(update_record(2, reference()))
    log.append(update_record(1, reference()))
    log.stream(bits(0.2, 2_000, 3))
    log.now_ms += 7 * 86_400_000
    assert triggers(log.append(TickControl().encode())) == []
    before = len(drifts(log.emitted))
    log.stream(bits(0.6, 800, 4))
    assert len(drifts(log.emitted)) == 2 * before


def test_a_shadows_drift_is_recorded_and_triggers_nothing() -> None:
    log = live()
    log.stream(bits(0.2, 2_000, 1), version=2, role="shadow")
    emitted = log.stream(bits(0.6, 1_000, 2), version=2, role="shadow")
    assert {drift.role for drift in drifts(emitted)} == {"shadow"}
    assert triggers(emitted) == []


def test_drift_of_an_older_version_triggers_nothing() -> None:
    log = live()
    log.stream(bits(0.2, 3_000, 1))
    log.append(update_record(2, reference()))
    emitted = log.stream(bits(0.6, 1_000, 2))  # late labels of version 1
    assert drifts(emitted)
    assert triggers(emitted) == []


def test_before_there_is_a_version_nothing_is_monitored() -> None:
    log = MonitorLog()
    log.stream(bits(0.2, 500, 1), version=0)
    log.stream(bits(0.9, 400, 2), version=0)
    assert log.emitted == []


@pytest.mark.parametrize("unit", [1.0, 250.0])
def test_numbers_drift_like_classes_whatever_their_unit(unit: float) -> None:
    source = np.random.default_rng(1)
    log = live(ref=Reference(rows=5_000, mean_error=unit))
    log.stream(source.exponential(unit, 3_000))
    assert drifts(log.emitted) == []
    emitted = log.stream(source.exponential(1.6 * unit, 2_000))
    found = {drift.detector: drift for drift in drifts(emitted)}
    assert set(found) == {"adwin", "page-hinkley", "rolling-accuracy"}
    assert found["rolling-accuracy"].threshold == pytest.approx(1.05 * unit)
    for drift in found.values():
        assert drift.estimated_change is not None
        assert abs(drift.estimated_change.partitions["0"].seq - 3_000) <= 150


def test_an_outlier_does_not_make_numbers_drift() -> None:
    source = np.random.default_rng(1)
    log = live(ref=Reference(rows=5_000, mean_error=1.0))
    log.stream(source.exponential(1.0, 3_000))
    log.stream(np.array([1e9]))
    concept = [
        drift for drift in drifts(log.stream(source.exponential(1.0, 3_000))) if drift.kind == "concept"
    ]
    assert concept == []


def test_stationary_errors_alarm_nobody_and_changes_alarm_soon() -> None:
    alarms, delays = 0, []
    for seed in range(12):
        log = live(ref=reference(accuracy=None))
        log.stream(bits((0.1, 0.2, 0.3, 0.4)[seed % 4], 15_000, seed), batch=100)
        alarms += len(drifts(log.emitted))
        already = len(log.records)
        log.stream(bits((0.1, 0.2, 0.3, 0.4)[seed % 4] + 0.15, 2_000, seed + 100), batch=100)
        first = next(i for i, (value, _) in enumerate(log.records[already:]) if value)
        assert first == 0
        found = [drift for drift in drifts(log.emitted) if drift.evidence["outcomes_seen"] > 15_000]
        delays.append(min(drift.evidence["outcomes_seen"] for drift in found) - 15_000)
    assert alarms <= 2  # 180,000 outcomes
    assert np.median(delays) <= 300
    assert max(delays) <= 1_000


@pytest.mark.parametrize("ramp", [2_000, 6_000])
def test_a_gradual_change_is_found_by_the_end_of_its_ramp(ramp: int) -> None:
    rates = np.concatenate([np.full(3_000, 0.2), np.linspace(0.2, 0.45, ramp), np.full(1_000, 0.45)])
    log = live()
    log.stream(np.random.default_rng(9).random(len(rates)) < rates)
    (first, *_) = drifts(log.emitted)
    assert 3_000 < first.evidence["outcomes_seen"] <= 3_000 + ramp
    assert first.estimated_change is not None
    assert 2_900 < first.estimated_change.partitions["0"].seq < 3_000 + ramp


@pytest.mark.skipif(not ELEC2.exists(), reason="the electricity data is not on this machine")
def test_on_real_errors_there_are_some_alarms_and_no_storm() -> None:
    log = live(ref=reference(accuracy=0.83), spec=ModelSpec.model_validate({"triggers": {"cooldown": "0s"}}))
    for start in range(0, 45_312, 50):
        found = triggers(log.stream(electricity_errors()[start : start + 50] > 0))
        for trigger in found:
            log.append(run_record(trigger.trigger_id, "rejected"))
    alarms = drifts(log.emitted)
    assert {drift.detector for drift in alarms} == {"adwin", "page-hinkley", "rolling-accuracy"}
    assert 15 <= len(alarms) <= 60  # ADWIN and Page-Hinkley fire 86 times
    assert len(triggers(log.emitted)) <= len(alarms)


# --- what cannot be used ---
