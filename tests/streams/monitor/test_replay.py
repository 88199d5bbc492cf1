"""A monitor's core that is restored or replayed decides the same, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from driftloop.schemas.control import ApprovalControl, RequestControl, TickControl
from driftloop.schemas.decisions import Trigger
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.vitals import CategoryCounts, SegmentErrors
from driftloop.streams.monitor.core import Emitted, VitalsCore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.monitor.output import dead_letters, drifts, triggers
from tests.support.monitor.records import (
    MODEL,
    START_MS,
    bits,
    entry,
    reference,
    run_record,
    sketch,
    spec_record,
    update_record,
    vitals,
)


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
            model=model, command_id="c", trigger_id=trigger_id, approved=bool(source.random() < 0.7),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_random_logs_reach_every_kind_of_event() -> None:
    emitted = [event for seed in range(12) for events in make_log(seed, 250, "append")[1] for event in events]
    assert {drift.severity for drift in drifts(emitted, None)} == {"info", "warning", "alarm"}
    assert {"concept", "accuracy", "failures", "latency"} <= {drift.kind for drift in drifts(emitted, None)}
    assert {trigger.reason for trigger in triggers(emitted)} == {"drift", "schedule", "volume", "manual"}
    assert {trigger.approval for trigger in triggers(emitted)} == {
        "automatic",
        "pending",
        "approved",
        "denied",
    }
    assert dead_letters(emitted)


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
