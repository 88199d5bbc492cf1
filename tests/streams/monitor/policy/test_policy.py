"""The policy: what becomes a trigger, when, and what prevents it."""

from __future__ import annotations

import pytest
from driftloop.schemas.decisions import Change, ChangePosition, Trigger
from driftloop.schemas.errors import IllegalTransition, SpecError
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.spec.schedule import NEVER_MS, next_occurrence_ms
from driftloop.streams.monitor.core import VitalsCore
from driftloop.streams.monitor.detect.alarm_lifecycle import TRANSITIONS as ALERT_TRANSITIONS
from driftloop.streams.monitor.detect.alarm_lifecycle import Alert
from driftloop.streams.monitor.policy.policy import best_dated
from driftloop.streams.monitor.policy.trigger_lifecycle import TRANSITIONS, PendingDrift, TriggerRecord

from tests.support.monitor.output import dead_letters, triggers
from tests.support.monitor.policy_log import DAY_MS, HOUR_MS, approval, decayed, ended, live, request, tick
from tests.support.monitor.records import (
    MODEL,
    START_MS,
    MonitorLog,
    bits,
    entry,
    reference,
    run_record,
    spec_record,
    update_record,
    vitals,
)

# --- drift ---


def test_only_drift_of_a_kind_that_the_spec_names_triggers() -> None:
    log = live(on=["data", "latency"])
    log.stream(bits(0.5, 3_000, 2))
    assert triggers(log.emitted) == []
    decayed(live(on=["accuracy"]))
    decayed(live(on=["concept"]))


def test_while_a_run_is_open_drift_waits_and_fires_after_a_failure_once_cooled() -> None:
    log = live(cooldown=HOUR_MS)
    first = decayed(log)
    assert triggers(log.stream(bits(0.5, 2_000, 3))) == []
    assert tick(log, 2 * HOUR_MS) == []  # cooled, but the run is still open
    (second,) = ended(log, first, "failed")
    assert second.reason == "drift"
    assert second.trigger_id != first.trigger_id
    assert set(first.drifts) <= set(second.drifts)  # nothing was evaluated: the same drift asks again


def test_the_cooldown_is_counted_from_the_trigger_and_drift_is_kept_through_it() -> None:
    log = live(cooldown=DAY_MS)
    first = decayed(log)
    fired_ms = log.now_ms
    log.stream(bits(0.5, 2_000, 3))
    assert ended(log, first, "failed") == []
    assert tick(log, fired_ms + DAY_MS - log.now_ms - 1) == []
    (second,) = tick(log, 1)
    assert second.ts == fired_ms + DAY_MS


def test_a_condition_that_ended_during_the_cooldown_triggers_nothing() -> None:
    log = live(cooldown=DAY_MS)
    first = decayed(log)
    ended(log, first, "failed")
    log.stream(bits(0.2, 6_000, 3))
    assert tick(log, 2 * DAY_MS) == []


def test_after_a_rejected_candidate_the_same_condition_does_not_trigger_again() -> None:
    log = live(cooldown=0)
    first = decayed(log)
    log.stream(bits(0.5, 2_000, 3))
    assert ended(log, first, "rejected") == []
    assert triggers(log.stream(bits(0.5, 3_000, 4))) == []
    assert tick(log, 30 * DAY_MS) == []
    worse = decayed(log, rate=0.8)
    assert worse.reason == "drift"


def test_follow_ups_keep_a_run_open_until_the_last_or_a_promotion() -> None:
    log = live(cooldown=0)
    first = decayed(log)
    log.stream(bits(0.5, 2_000, 3))
    assert ended(log, first, "rejected", last=False) == []
    assert ended(log, first, "failed", last=False) == []
    assert tick(log, DAY_MS) == []
    assert len(ended(log, first, "failed")) == 1

    log = live(cooldown=0)
    first = decayed(log)
    ended(log, first, "promoted", last=False)
    log.append(update_record(2, reference()))
    log.stream(bits(0.2, 3_000, 5), version=2)
    for _ in range(40):
        found = triggers(log.stream(bits(0.6, 50, 6), version=2))
        if found:
            break
    else:
        raise AssertionError("the new champion's drift does not wait for the old one's follow-ups")
    assert found[0].version == 2


def test_pending_drift_of_a_replaced_version_triggers_nothing() -> None:
    log = live(cooldown=DAY_MS)
    first = decayed(log)
    log.stream(bits(0.5, 2_000, 3))
    ended(log, first, "promoted")
    log.append(update_record(2, reference()))
    assert tick(log, 10 * DAY_MS) == []


def test_a_trigger_that_nobody_approves_is_withdrawn() -> None:
    log = live(approval="needed", on=["concept"])
    asked = decayed(log)
    assert tick(log, 42 * DAY_MS) == []
    (withdrawn,) = tick(log, 2 * HOUR_MS)
    assert (withdrawn.trigger_id, withdrawn.approval, withdrawn.why) == (
        asked.trigger_id,
        "denied",
        "nobody decided in time",
    )


def test_a_run_that_ended_before_anybody_decided_frees_the_policy() -> None:
    log = live(approval="needed", volume=4_000, cooldown=DAY_MS)
    asked = decayed(log)
    ended(log, asked, "superseded")
    assert dead_letters(log.append(approval(asked, approved=True)))
    (volume,) = triggers(log.stream(bits(0.5, 1_000, 3)))
    assert volume.reason == "volume"
    log.append(update_record(2, reference()))
    assert dead_letters(log.append(run_record(volume.trigger_id, "superseded"))) == []  # withdrawn by then


def test_a_trainer_that_never_answers_does_not_block_for_ever() -> None:
    log = live(cooldown=DAY_MS, schedule="0 3 * * *")
    decayed(log)
    assert tick(log, 30 * DAY_MS) == []
    (late,) = tick(log, 20 * DAY_MS)
    assert late.reason in ("drift", "schedule")


def change(ts: int) -> Change:
    return Change(partitions={"0": ChangePosition(seq=ts, append_ms=ts)}, ts=ts)


def test_concurrent_drifts_take_the_latest_change_of_the_kind_that_dates_best() -> None:
    drifts = (
        PendingDrift("a", 1, "data", "ks/x", change(900)),
        PendingDrift("b", 1, "concept", "adwin/error", change(400)),
        PendingDrift("c", 1, "concept", "page-hinkley/error", change(500)),
        PendingDrift("d", 1, "accuracy", "rolling-accuracy/error", change(700)),
    )
    assert best_dated(drifts) == change(500)
    assert best_dated(drifts[:1]) == change(900)
    assert best_dated((PendingDrift("e", 1, "latency", "p95/latency p95", None),)) is None


# --- approval ---


def test_a_trigger_that_needs_approval_is_sent_twice_under_one_id() -> None:
    log = live(approval="needed")
    asked = decayed(log)
    assert asked.approval == "pending"
    (approved,) = triggers(log.append(approval(asked, approved=True)))
    assert approved.trigger_id == asked.trigger_id
    assert (approved.approval, approved.by, approved.why) == ("approved", "ann", "it is due")
    assert approved.estimated_change == asked.estimated_change
    assert approved.drifts == asked.drifts


def test_what_is_denied_stays_denied() -> None:
    log = live(approval="needed")
    asked = decayed(log)
    (denied,) = triggers(log.append(approval(asked, approved=False)))
    assert denied.approval == "denied"
    emitted = log.append(approval(asked, approved=True))
    assert triggers(emitted) == []
    assert "comes too late or twice" in dead_letters(emitted)[0].reason


def test_a_pending_trigger_holds_others_back_until_its_version_is_replaced() -> None:
    log = live(approval="needed", cooldown=0, volume=3_500)
    asked = decayed(log)
    assert triggers(log.stream(bits(0.5, 2_000, 3))) == []
    (withdrawn,) = triggers(log.append(update_record(2, reference())))
    assert withdrawn.trigger_id == asked.trigger_id
    assert (withdrawn.approval, withdrawn.by) == ("denied", "policy")
    emitted = log.append(approval(asked, approved=True))
    assert triggers(emitted) == []
    assert dead_letters(emitted)
    (volume,) = triggers(log.stream(bits(0.2, 3_500, 4), version=2))
    assert volume.version == 2


# --- schedule, volume, requests, the first version ---


def test_a_schedule_fires_once_when_its_time_passes_however_long_nothing_came() -> None:
    log = live(schedule="0 3 * * *", cooldown=10 * DAY_MS)
    assert tick(log, HOUR_MS) == []  # START_MS is 22:13 UTC
    (first,) = tick(log, 4 * HOUR_MS)
    assert first.reason == "schedule"
    ended(log, first, "rejected")
    assert tick(log, HOUR_MS) == []
    (second,) = tick(log, 5 * DAY_MS)
    ended(log, second, "rejected")
    assert tick(log, HOUR_MS) == []


def test_a_schedule_that_comes_due_while_a_run_is_open_waits_for_its_end() -> None:
    log = live(schedule="0 3 * * *")
    log.append(request())
    (manual,) = triggers(log.emitted)
    assert tick(log, 3 * DAY_MS) == []
    (due,) = ended(log, manual, "rejected")
    assert due.reason == "schedule"


def test_any_models_schedule_fires_though_only_another_model_is_busy() -> None:
    log = live(schedule="0 3 * * *")
    log.now_ms += DAY_MS
    (trigger,) = triggers(log.append(vitals(entry(bits(0.2, 10, 0), model="busy"))))
    assert (trigger.model, trigger.reason) == (MODEL, "schedule")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 3 * * 1", "2023-11-20T03:00"),
        ("*/15 * * * *", "2023-11-14T22:15"),
        ("0 0 1 1 *", "2024-01-01T00:00"),
    ],
)
def test_schedules_are_utc(schedule: str, expected: str) -> None:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(next_occurrence_ms(schedule, START_MS) / 1000, UTC)
    assert moment.strftime("%Y-%m-%dT%H:%M") == expected


def test_a_schedule_beyond_the_calendar_never_comes() -> None:
    assert next_occurrence_ms("0 3 * * *", 2**53) == NEVER_MS
    with pytest.raises(SpecError, match="random"):
        next_occurrence_ms("0 h(1-2) * * *", START_MS)


def test_volume_counts_the_champions_outcomes_and_starts_again() -> None:
    log = MonitorLog()
    log.append(spec_record(ModelSpec.model_validate({"triggers": {"volume": 500, "on": []}})))
    log.append(update_record(1))
    assert triggers(log.stream(bits(0.2, 600, 1), role="shadow")) == []
    assert triggers(log.stream(bits(0.2, 450, 1))) == []
    (first,) = triggers(log.stream(bits(0.2, 50, 1)))
    assert first.reason == "volume"
    assert triggers(log.stream(bits(0.2, 1_200, 1))) == []  # the run is open
    (second,) = ended(log, first, "rejected")
    assert second.trigger_id != first.trigger_id


def test_with_no_champion_the_first_labels_ask_for_version_one() -> None:
    log = MonitorLog()
    log.append(
        spec_record(ModelSpec.model_validate({"triggers": {"first_labels": 200, "schedule": "* * * * *"}}))
    )
    found: list[Trigger] = []
    for _ in range(5):  # answered with an error: labels come, errors do not
        found += triggers(log.append(vitals(entry(None, version=0, outcomes=50)), after_ms=HOUR_MS))
    (first,) = found
    assert (first.reason, first.version, first.estimated_change) == ("volume", 0, None)
    assert triggers(log.append(vitals(entry(None, version=0, outcomes=500)))) == []
    (again,) = ended(log, first, "failed")
    assert again.version == 0


def test_a_retired_model_is_not_trained_by_itself() -> None:
    log = live(first_labels=100, schedule="0 3 * * *", volume=4_000)
    log.append(update_record(0))
    assert triggers(log.append(vitals(entry(None, version=0, outcomes=5_000)))) == []
    assert tick(log, 3 * DAY_MS) == []
    (manual,) = triggers(log.append(request()))
    assert manual.version == 0


def test_a_persons_request_waits_for_nothing_and_a_repeated_command_is_one_trigger() -> None:
    log = live(cooldown=DAY_MS, approval="needed")
    decayed(log)
    (manual,) = triggers(log.append(request(change=change(7))))
    assert (manual.reason, manual.by, manual.why) == ("manual", "ann", "new prices")
    assert manual.approval == "approved"
    assert manual.estimated_change == change(7)
    assert triggers(log.append(request(change=change(7)))) == []
    assert len(triggers(log.append(request("command-2")))) == 1


def test_triggers_carry_the_spec_that_was_in_force() -> None:
    log = live(volume=3_050)
    changed = ModelSpec.model_validate({"triggers": {"volume": 3_050}, "seed": 8})
    log.append(spec_record(changed))
    (trigger,) = triggers(log.stream(bits(0.2, 100, 3)))
    assert trigger.spec_digest == changed.digest()


def test_with_the_event_clock_only_the_models_own_events_move_time() -> None:
    log = MonitorLog(VitalsCore(0, clock="event"))
    log.append(spec_record(ModelSpec.model_validate({"triggers": {"schedule": "0 * * * *", "on": []}})))
    log.append(update_record(1))
    begin = 1_357_000_000_000  # 2013

    def outcome(ts: int) -> list[Trigger]:
        return triggers(log.append(vitals(entry(bits(0.2, 5, 0), ts=(ts - 60_000, ts))), after_ms=DAY_MS))

    assert outcome(begin) == []
    assert outcome(begin + 60_000) == []
    assert tick(log, DAY_MS) == []
    (trigger,) = outcome(begin + 2 * HOUR_MS)
    assert trigger.ts == begin + 2 * HOUR_MS
    assert outcome(begin) == []  # a late one: time does not go back


# --- the tables ---


def test_a_triggers_moves_are_the_tables_and_no_others() -> None:
    trigger = Trigger(
        trigger_id="t", model=MODEL, version=1, reason="drift", ts=1, spec_digest=ModelSpec().digest()
    )
    for state in ("pending", "open", "closed", "denied", "withdrawn"):
        for cause in ("approve", "deny", "withdraw", "end"):
            record = TriggerRecord(trigger, state, 1)
            if (state, cause) in TRANSITIONS:
                assert record.moved(cause, 2).state == TRANSITIONS[state, cause]
            else:
                with pytest.raises(IllegalTransition):
                    record.moved(cause, 2)


def test_an_alarms_moves_are_the_tables_and_no_others() -> None:
    for state in ("quiet", "suspected", "alarmed", "acknowledged"):
        for cause in ("fire", "confirm", "expire", "recover", "acknowledge"):
            alert = Alert()
            alert.state = state
            if (state, cause) in ALERT_TRANSITIONS:
                alert.move(cause, 5)
                assert alert.state == ALERT_TRANSITIONS[state, cause]
            else:
                with pytest.raises(IllegalTransition):
                    alert.move(cause, 5)


def test_a_schedule_that_struck_before_there_was_a_champion_is_not_due_for_the_first_one() -> None:
    log = MonitorLog()
    log.append(spec_record(ModelSpec.model_validate({"triggers": {"schedule": "0 * * * *"}})))
    assert triggers(log.append(update_record(1, reference()), after_ms=3 * HOUR_MS)) == []
    assert [trigger.reason for trigger in tick(log, after_ms=HOUR_MS)] == ["schedule"]
