"""The monitor's core: drift from error streams, dead letters, and decisions that replay byte for byte."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from driftloop.schemas.control import ApprovalControl, RequestControl, TickControl
from driftloop.schemas.decisions import Drift, Trigger
from driftloop.schemas.errors import StateError
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.serving import Reference
from driftloop.schemas.spec import ModelSpec
from driftloop.schemas.vitals import CategoryCounts, SegmentErrors
from driftloop.streams.vitals_core import Emitted, VitalsCore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .monitor_records import (
    MODEL,
    START_MS,
    Log,
    bits,
    entry,
    reference,
    run_record,
    sketch,
    spec_record,
    update_record,
    vitals,
)
from .test_detectors import ELEC2, electricity_errors


def drifts(emitted: list[Emitted], severity: str | None = "alarm") -> list[Drift]:
    values = [Drift.decode(item.value) for item in emitted if item.topic.name == "drift"]
    return [drift for drift in values if severity in (None, drift.severity)]


def triggers(emitted: list[Emitted]) -> list[Trigger]:
    return [Trigger.decode(item.value) for item in emitted if item.topic.name == "triggers"]


def letters(emitted: list[Emitted]) -> list[DeadLetter]:
    return [DeadLetter.decode(item.value) for item in emitted if item.topic.name == "dead-letters"]


def live(version: int = 1, *, spec: ModelSpec | None = None, ref: Reference | None = None) -> Log:
    log = Log()
    log.append(spec_record(spec or ModelSpec()))
    log.append(update_record(version, ref if ref is not None else reference()))
    return log


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


def test_a_judged_condition_is_lived_with_until_it_gets_worse() -> None:
    log = live()
    log.stream(bits(0.2, 3_000, 1))
    (trigger,) = triggers(log.stream(bits(0.4, 3_000, 2)))
    log.append(run_record(trigger.trigger_id, "rejected"))
    lived_with = len(drifts(log.emitted))
    log.stream(bits(0.4, 3_000, 3))
    assert len(drifts(log.emitted)) == lived_with
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


def test_a_refresh_keeps_the_detectors_and_a_version_starts_them_anew() -> None:
    kept, renewed = live(), live()
    for log in (kept, renewed):
        log.stream(bits(0.2, 2_900, 1))
    kept.append(update_record(1, reference(), refresh=1))
    renewed.append(update_record(2, reference()))
    kept.stream(bits(0.6, 150, 2))
    renewed.stream(bits(0.6, 150, 2), version=2)
    assert [drift.kind for drift in drifts(kept.emitted)]
    assert drifts(renewed.emitted, None) == []  # nothing but high errors were ever seen of version 2


def test_a_version_that_returns_by_rollback_starts_anew() -> None:
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


def test_before_there_is_a_version_nothing_is_watched() -> None:
    log = Log()
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

GOOD = vitals(entry(bits(0.2, 20, 0)))
ODD: dict[str, bytes] = {
    "empty": b"",
    "truncated": GOOD[: len(GOOD) // 2],
    "not UTF-8": GOOD[:30] + b"\xff\xfe" + GOOD[30:],
    "not an object": b"[1, 2]",
    "a number": b"17",
    "NaN": GOOD.replace(b'"append_min_ms":', b'"append_min_ms":NaN,"x":'),
    "wrong type": GOOD.replace(b'"partition":0', b'"partition":"0"'),
    "missing models": b'{"vitals":1}',
    "unknown control": b'{"control":"dance","model":"fraud"}',
    "control that is none": b'{"control":{}}',
    "deep nesting": b'{"control":' + b"[" * 100_000,
    "deep vitals": b'{"vitals":' + b"[" * 100_000,
    "bad model name": GOOD.replace(b'"fraud"', b'"../fraud"'),
    "error count": GOOD.replace(b'"count":20', b'"count":900000000000'),
    "negative error count": GOOD.replace(b'"count":20', b'"count":-20'),
    "bad base64": vitals(entry(bits(0.2, 24, 0))).replace(b'"data":"', b'"data":"*'),
    "seqs of another length": vitals(entry(bits(0.2, 4, 0), seqs=[1, 2, 5, 9])).replace(
        b'"count":4', b'"count":5'
    ),
    "negative errors": vitals(entry(np.array([1.0, -2.0]))),
    "infinite errors": vitals(entry(np.array([1.0, np.inf]))),
    "negative count": vitals(entry(None, outcomes=-1)),
    "time beyond time": vitals(entry(bits(0.2, 9, 0), ts=(2**60, 2**61))),
    "huge number": GOOD.replace(b'"first_seq":0', b'"first_seq":' + b"9" * 400),
    "damaged sketch": vitals(entry(None, latency=[1.0, 2.0, 3.0])).replace(b'"kll":"', b'"kll":"AAAA'),
    "spec that is none": spec_record(ModelSpec()).replace(b'"seed":', b'"colour":'),
    "spec with a bad digest": spec_record(ModelSpec()).replace(ModelSpec().digest().encode(), b"me"),
    "accuracy beyond 1": update_record(2, reference(accuracy=1.5)),
    "negative mean error": update_record(2, reference(accuracy=None, mean_error=-1.0)),
    "quantiles out of order": update_record(2, reference()).replace(b'"quantiles":[', b'"quantiles":[9.0,'),
    "errors beyond reckoning": vitals(entry(np.array([1.0, 1e200]))),
    "approval of nothing": ApprovalControl(
        model=MODEL, command_id="c", trigger_id="t", granted=True, by="me", why="", ts=1
    ).encode(),
    "run of nothing": run_record("trigger-0", "promoted"),
}


@pytest.mark.parametrize("schedule", ["61 * * * *", "0 0 31 2 *", "R R * * *", "a b c d e", "*/0 * * * *"])
def test_a_schedule_that_cannot_be_is_a_dead_letter(schedule: str) -> None:
    log = Log()
    log.append(spec_record(ModelSpec.model_validate({"triggers": {"schedule": schedule}})))
    (letter,) = letters(log.emitted)
    assert "schedule" in letter.reason


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_what_cannot_be_used_is_a_dead_letter_and_changes_nothing(value: bytes) -> None:
    log = live()
    log.stream(bits(0.2, 200, 1))
    before = orjson.loads(log.core.snapshot())["models"]
    emitted = log.append(value)
    (letter,) = letters(emitted)
    assert len(emitted) == 1
    assert base64.b64decode(letter.value_b64 or "") == value
    assert letter.offset == len(log.records) - 1
    assert letter.append_ms == log.now_ms
    assert letter.stage == "monitor"
    assert letter.reason
    after = orjson.loads(log.core.snapshot())["models"]
    for state in (*before, *after):
        state[1] = 0  # time goes on with bad records too
    assert after == before
    log.stream(bits(0.2, 2_000, 1))
    assert drifts(log.stream(bits(0.6, 800, 2)))


def test_errors_that_turn_from_bits_to_numbers_are_refused_whole() -> None:
    log = live()
    log.stream(bits(0.2, 100, 1))
    other = entry(bits(0.2, 100, 1), model="other")
    (letter,) = letters(log.append(vitals(other, entry(np.ones(10)))))
    assert "no longer" in letter.reason
    assert len(orjson.loads(log.core.snapshot())["models"]) == 1


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_can_break_the_core(value: bytes) -> None:
    core = VitalsCore(0)
    for offset, each in enumerate((value, b'{"vitals":' + value, b'{"control":"' + value)):
        core.apply(each, offset=offset, append_time_ms=START_MS)
        assert core.applied_offset == offset


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_no_damage_to_good_vitals_can_break_the_core(at: int, bytes_: bytes) -> None:
    core = VitalsCore(0)
    core.apply(GOOD[:at] + bytes_ + GOOD[at + len(bytes_) :], offset=0, append_time_ms=START_MS)
    core.apply(GOOD, offset=1, append_time_ms=START_MS)
    assert core.applied_offset == 1


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format":99}', b'{"format":1}', b"\xff"])
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(StateError):
        VitalsCore.restore(data)


# --- replay ---


def random_record(source: np.random.Generator, known: list[Trigger]) -> bytes:
    """Anything that can be on vitals, good or bad, of a few models."""
    kind = source.choice(
        ["errors", "numbers", "spec", "update", "run", "approval", "request", "tick", "bad"],
        p=[0.6, 0.1, 0.05, 0.04, 0.06, 0.04, 0.03, 0.05, 0.03],
    )
    model = f"m{source.integers(3)}"
    if kind == "tick":
        return TickControl().encode()
    if kind == "bad":
        return bytes(source.integers(0, 256, size=int(source.integers(0, 30)), dtype=np.uint8))
    if kind == "spec":
        rules: dict[str, Any] = {
            "on": ["concept", "accuracy", "data"],
            "cooldown": int(source.integers(0, 60_000)),
            "schedule": str(source.choice(["* * * * *", "*/5 * * * *"])),
            "volume": int(source.integers(500, 5_000)),
            "approval": str(source.choice(["automatic", "needed"])),
        }
        windows = {name: {"window": 200} for name in ("accuracy", "data", "latency", "failures")}
        return spec_record(ModelSpec.model_validate({"triggers": rules, "detectors": windows}), model)
    if kind == "update":
        version = int(source.integers(0, 4))
        return update_record(version, reference() if source.random() < 0.8 else None).replace(
            MODEL.encode(), model.encode()
        )
    trigger_id = "trigger-none"
    if known and source.random() < 0.9:
        trigger = known[-int(source.integers(1, min(4, len(known)) + 1))]
        model, trigger_id = trigger.model, trigger.trigger_id
    if kind == "run":
        status = str(source.choice(["promoted", "rejected", "failed", "superseded", "waiting"]))
        record = run_record(trigger_id, status, last_stage=bool(source.random() < 0.7))  # type: ignore[arg-type]
        return record.replace(MODEL.encode(), model.encode())
    if kind == "approval":
        return ApprovalControl(
            model=model, command_id="c", trigger_id=trigger_id, granted=bool(source.random() < 0.7),
            by="ann", why="because", ts=START_MS,
        ).encode()  # fmt: skip
    if kind == "request":
        return RequestControl(
            model=model, command_id=f"c{source.integers(9)}", by="ann", why="", ts=START_MS
        ).encode()
    n = int(source.integers(1, 120))
    rate = float(source.choice([0.1, 0.5]))
    item = entry(
        source.random(n) < rate,
        model=model,
        version=int(source.integers(0, 4)),
        role=str(source.choice(["champion", "champion", "shadow"])),  # type: ignore[arg-type]
        first_seq=int(source.integers(0, 10**6)),
        ts=(START_MS, START_MS + n),
        predictions=n,
        failed=int(source.integers(0, n)),
        latency=source.random(n) * 30,
        predicted={"no": n, "yes": int(source.integers(0, 50))},
        numbers={"amount": sketch(source.normal(size=n), int(source.integers(0, 5)))}
        if kind == "numbers"
        else None,
        categories={"country": CategoryCounts(count=n, counts={"de": n})} if kind == "numbers" else None,
        segments={"region": {"n": SegmentErrors(count=n, error_sum=n * rate)}},
    )
    other = entry(source.random(5) < 0.2, model="m9")
    return vitals(item, other, partition=int(source.integers(3)), append_ms=START_MS)


def make_log(seed: int, n: int, clock: Any) -> tuple[list[tuple[bytes, int]], list[list[Emitted]]]:
    source, core = np.random.default_rng(seed), VitalsCore(0, clock=clock)
    records: list[tuple[bytes, int]] = []
    emitted: list[list[Emitted]] = []
    known: list[Trigger] = []
    now = START_MS
    for offset in range(n):
        now += int(source.integers(-50, 5_000))  # brokers' clocks may disagree a little
        records.append((random_record(source, known), now))
        events = core.apply(records[-1][0], offset=offset, append_time_ms=now)
        emitted.append(events)
        known += triggers(events)
    return records, emitted


@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 249), max_size=6),
    repeats=st.integers(0, 20),
    clock=st.sampled_from(["append", "event"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_replay_decides_the_same_byte_for_byte(
    seed: int, cuts: list[int], repeats: int, clock: str
) -> None:
    records, expected = make_log(seed, 250, clock)
    core = VitalsCore(0, clock=clock)  # type: ignore[arg-type]
    for offset, (value, append_ms) in enumerate(records):
        if offset in cuts:
            data = core.snapshot()
            core = VitalsCore.restore(data)
            assert core.snapshot() == data
            for again in range(max(0, offset - repeats), offset):
                value_again, append_again = records[again]
                assert core.apply(value_again, offset=again, append_time_ms=append_again) == []
        assert core.apply(value, offset=offset, append_time_ms=append_ms) == expected[offset]
        assert core.applied_offset == offset


def test_the_random_logs_reach_every_kind_of_event() -> None:
    emitted = [event for seed in range(12) for events in make_log(seed, 250, "append")[1] for event in events]
    assert {drift.severity for drift in drifts(emitted, None)} == {"info", "warning", "alarm"}
    assert {"concept", "accuracy", "failures", "latency"} <= {drift.kind for drift in drifts(emitted, None)}
    assert {trigger.reason for trigger in triggers(emitted)} == {"drift", "schedule", "volume", "manual"}
    assert {trigger.approval for trigger in triggers(emitted)} == {
        "automatic",
        "needed",
        "granted",
        "refused",
    }
    assert letters(emitted)


def test_ids_are_unique_and_events_carry_their_model_as_key() -> None:
    _, emitted = make_log(3, 250, "append")
    events = [event for group in emitted for event in group]
    ids = [drift.drift_id for drift in drifts(events, None)]
    assert len(ids) == len(set(ids))
    for event in events:
        if event.topic.name in ("drift", "triggers"):
            assert event.key.decode() == orjson.loads(event.value)["model"]


@pytest.mark.parametrize("models", [1, 100])
def test_snapshots_stay_small(models: int) -> None:
    core = VitalsCore(0)
    for offset in range(30 * models):
        model = f"m{offset % models}"
        item = entry(bits(0.2, 200, offset), model=model, first_seq=offset * 200, ts=(START_MS, START_MS + 1))
        core.apply(vitals(item), offset=offset, append_time_ms=START_MS + offset)
    assert len(core.snapshot()) < 30_000 * models
