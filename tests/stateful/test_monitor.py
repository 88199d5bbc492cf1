"""The monitor's core against the oracle: vitals, control records, gaps, crashes, new owners, in any order."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import orjson
from driftloop.schemas.control import (
    ApprovalControl,
    RequestControl,
    RunControl,
    SpecControl,
    TickControl,
    UpdateControl,
)
from driftloop.schemas.events import Role
from driftloop.schemas.runs import RunStatus
from driftloop.schemas.serving import CategoryProfile, Reference
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.vitals import CategoryCounts, ModelVitals, SegmentErrors
from driftloop.streams.monitor.core import Emitted, VitalsCore
from driftloop.streams.monitor.detect.comparisons import Comparisons
from driftloop.streams.monitor.detect.error_stream import ErrorStream
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import astuple

from tests.stateful.oracles.errors import LONGEST, Seen
from tests.stateful.oracles.monitor import HOUR_MS, HOURLY, ExpectedEvent, PartitionOracle
from tests.support.fuzz import effort
from tests.support.monitor.records import START_MS, entry, number_profile, reference, sketch, vitals

MODELS = ("fraud", "late")
ENDS: tuple[RunStatus, ...] = ("rejected", "rejected", "promoted", "failed", "superseded")
KINDS = ("concept", "accuracy", "data", "prediction", "latency", "failures", "fairness")
REGIONS = {"north": 0.2, "south": 0.1}
REFERENCES: tuple[Reference | None, ...] = (
    None,
    reference(segments={"region": REGIONS}),
    reference(
        accuracy=0.6,
        mean_error=2.0,
        latency_p95_ms=2.0,
        numbers={"amount": number_profile(np.random.default_rng(2).normal(1.0, 2.0, 5_000).round(1), 500)},
        categories={"country": CategoryProfile(count=5_000, nulls=0, counts={"de": 4_990, "fr": 10})},
        predicted={"no": 1.0},
    ),
)


def rules(source: np.random.Generator) -> ModelSpec:
    """A spec whose windows are small, so that random sequences fill them."""
    off = bool(source.random() < 0.15)
    return ModelSpec.model_validate({
        "detectors": {
            "adwin": {"delta": float(source.choice([0.002, 0.05])), "enabled": bool(source.random() < 0.85)},
            "page_hinkley": {"threshold": 5.0, "min_outcomes": 30, "enabled": bool(source.random() < 0.85)},
            "accuracy": {"window": int(source.choice([60, 150])), "drop": float(source.choice([0.05, 0.2]))},
            "data": {"window": 100, "enabled": not off},
            "latency": {"window": 50, "enabled": not off},
            "failures": {"window": 50, "enabled": not off},
        },
        "triggers": {
            "on": list(KINDS[: int(source.integers(1, len(KINDS) + 1))]),
            "cooldown": str(source.choice(["0s", "2h"])),
            "approval": str(source.choice(["automatic", "automatic", "needed"])),
            "schedule": HOURLY if source.random() < 0.3 else None,
            "volume": 400 if source.random() < 0.3 else None,
            "first_labels": 100,
        },
    })  # fmt: skip


def same(actual: object, expected: object) -> bool:
    """Equal up to rounding: sums of the same numbers in another order."""
    if isinstance(expected, dict):
        mine, other = cast("dict[str, Any]", actual), cast("dict[str, Any]", expected)
        return mine.keys() == other.keys() and all(same(mine[name], other[name]) for name in other)
    if isinstance(expected, list | tuple):
        items, others = cast("list[Any]", actual), cast("list[Any]", expected)
        return len(items) == len(others) and all(map(same, items, others))
    if isinstance(expected, float):
        return math.isclose(cast("float", actual), expected, rel_tol=1e-4, abs_tol=1e-9)
    return actual == expected


class MonitorMachine(RuleBasedStateMachine):
    """One vitals partition, two models, messages of three input partitions."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.oracle = VitalsCore(3), PartitionOracle(3)
        self.records: list[tuple[int, bytes, int]] = []
        self.emitted: list[list[Emitted]] = []
        self.kept = (self.core.snapshot(), 0)
        self.offset = -1
        self.now_ms = START_MS
        self.seqs = {0: 0, 2: 0, 10: 0}

    @initialize(seed=st.integers(0, 2**20), which=st.sampled_from([1, 1, 2, 0]))
    def begin(self, seed: int, which: int) -> None:
        for model in MODELS:
            self.a_spec_is_applied(model, seed)
            self.a_version_goes_live(model, 1, which)

    # --- what is appended ---

    def append(self, value: bytes, ms: int = 1_000) -> tuple[list[Emitted], int]:
        self.now_ms += ms
        self.offset += 1
        self.oracle.at(self.now_ms)
        self.records.append((self.offset, value, self.now_ms))
        self.emitted.append(self.core.apply(value, offset=self.offset, append_time_ms=self.now_ms))
        return self.emitted[-1], self.oracle.now_ms

    def compare(self, emitted: list[Emitted], expected: list[ExpectedEvent]) -> None:
        decoded = [(one.topic.name, cast("dict[str, Any]", orjson.loads(one.value))) for one in emitted]
        for topic, value in decoded:
            if topic == "dead-letters":
                assert value.pop("reason")
        expected += self.oracle.others()
        assert [topic for topic, _ in decoded] == [topic for topic, _ in expected], (decoded, expected)
        for (_, value), (_, wanted) in zip(decoded, expected, strict=True):
            assert same(value, wanted), (value, wanted)

    def seen(self, source: np.random.Generator, version: int, role: Role, rate: float, count: int) -> Seen:
        partition = int(source.choice([0, 2, 10]))
        gaps = source.integers(1, 3, count) if source.random() < 0.3 else np.ones(count, int)
        seqs = (self.seqs[partition] + np.cumsum(gaps) - 1).tolist()
        bits = bool(source.random() < 0.97) if version != 4 else False
        errors = (source.random(count) < rate) if bits else source.exponential(4 * rate, count)
        at = self.now_ms - int(source.integers(0, 60_000))
        seen = Seen(version, role, partition, self.now_ms, (at, at + count), errors.astype(float).tolist(),
                    bits, seqs)  # fmt: skip
        if count:
            self.seqs[partition] = seqs[-1] + 1
        if source.random() < 0.6:
            n = int(source.choice([10, 60, 120]))
            seen.predictions, seen.failed = n, int(source.binomial(n, source.choice([0.01, 0.2])))
            seen.latency = source.exponential(source.choice([1.0, 10.0]), n).tolist()
            seen.predicted = {"no": n, "yes": int(source.integers(0, 2) * n // 3)}
            shift = float(source.choice([0.0, 0.0, 1.5]))
            seen.amounts = source.normal(shift, 1.0, n).round(1).tolist()
            seen.nulls = int(source.choice([0, 0, n // 3]))
            seen.countries = {"de": n // 2, "fr": n - n // 2} if source.random() < 0.8 else {"xx": n, "de": 1}
            seen.rows = n + max(seen.nulls, 1)
            if source.random() < 0.15:  # a feature does not come at all
                seen.amounts, seen.nulls = [], 0
            if source.random() < 0.15:
                seen.countries = {}
        if count and source.random() < 0.5:
            north = int(source.integers(0, count + 1))
            seen.segments = {
                "north": (north, float(sum(seen.errors[:north]))),
                "south": (count - north, float(sum(seen.errors[north:]))),
            }
        return seen

    @rule(
        seed=st.integers(0, 2**20),
        model=st.sampled_from([*MODELS, MODELS[0]]),
        version=st.sampled_from([1, 1, 1, 1, 2, 3, 4, 4, 5, 0]),
        shadow=st.sampled_from([False, False, True]),
        rate=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
        count=st.sampled_from([0, 1, 40, 150, 300]),
    )
    def outcomes_come(
        self, seed: int, model: str, version: int, shadow: bool, rate: float, count: int
    ) -> None:
        source, role = np.random.default_rng(seed), cast("Role", "shadow" if shadow else "champion")
        batch = [(model, self.seen(source, version, role, rate, count))]
        if source.random() < 0.2:  # a message has several models
            other = MODELS[int(source.integers(0, 2))]
            batch.append((other, self.seen(source, int(source.integers(1, 6)), role, 0.2, 40)))
            batch[1][1].partition, batch[1][1].append_ms = batch[0][1].partition, batch[0][1].append_ms
        if any(self.length(name, seen) + len(seen.errors) * len(batch) > LONGEST for name, seen in batch):
            return
        value = vitals(*(_entry(name, seen) for name, seen in batch), partition=batch[0][1].partition,
                       append_ms=batch[0][1].append_ms)  # fmt: skip
        fits = self.oracle.fits(batch)
        emitted, now_ms = self.append(value)
        expected = (
            self.oracle.observe(batch, self.offset) if fits else self.oracle.dead(value, self.offset, now_ms)
        )
        self.compare(emitted, expected)

    @rule(seed=st.integers(0, 2**20), shadow=st.booleans(), before=st.sampled_from([0.05, 0.2, 0.5]),
          after=st.sampled_from([0.02, 0.6, 0.9]))  # fmt: skip
    def a_model_decays(self, seed: int, shadow: bool, before: float, after: float) -> None:
        for i, rate in enumerate((before, before, after, after)):
            self.outcomes_come(seed + i, MODELS[0], 1, shadow and i == 1, rate, 150)

    @rule(seed=st.integers(0, 2**20), rate=st.sampled_from([0.05, 0.2, 0.9]))
    def it_goes_on(self, seed: int, rate: float) -> None:
        self.outcomes_come(seed, MODELS[0], 1, False, rate, 150)

    def length(self, model: str, seen: Seen) -> int:
        known = self.oracle.models.get(model)
        watched = known.watched.get((seen.version, seen.role)) if known else None
        return watched.errors.count if watched else 0

    @rule(
        model=st.sampled_from(MODELS),
        version=st.sampled_from([1, 1, 1, 2, 4, 4, 5, 0]),
        which=st.sampled_from([1, 1, 2, 0]),
    )
    def a_version_goes_live(self, model: str, version: int, which: int) -> None:
        known = REFERENCES[which] if version else None
        value = UpdateControl(model=model, generation=1, version=version, reference=known, ts=1).encode()
        emitted, now_ms = self.append(value)
        triggers = self.oracle.model(model).live(version, known, now_ms)
        self.compare(emitted, self.decided(model, [("triggers", trigger) for trigger in triggers]))

    def decided(self, model: str, expected: list[ExpectedEvent]) -> list[ExpectedEvent]:
        return expected + [("triggers", one) for one in self.oracle.model(model).decide(self.oracle.now_ms)]

    @rule(model=st.sampled_from(MODELS), seed=st.integers(0, 2**20))
    def a_spec_is_applied(self, model: str, seed: int) -> None:
        spec = rules(np.random.default_rng(seed))
        table = spec.model_dump(mode="json")
        emitted, _ = self.append(SpecControl(model=model, digest=spec.digest(), spec=table, ts=1).encode())
        self.oracle.model(model).apply_spec(spec)
        self.compare(emitted, self.decided(model, []))

    @rule(model=st.sampled_from(MODELS), command=st.integers(0, 3))
    def a_person_asks(self, model: str, command: int) -> None:
        request = RequestControl(model=model, command_id=f"c{command}", by="ann", why="so", ts=1)
        emitted, now_ms = self.append(request.encode())
        triggers = self.oracle.model(model).request(f"c{command}", now_ms)
        self.compare(emitted, self.decided(model, [("triggers", trigger) for trigger in triggers]))

    def trigger_of(self, model: str, data: st.DataObject) -> str:
        known = self.oracle.models.get(model)
        return data.draw(st.sampled_from([*reversed(known.triggers if known else {}), "trigger-none"]))

    @rule(model=st.sampled_from(MODELS), data=st.data(), approved=st.booleans())
    def a_person_decides(self, model: str, data: st.DataObject, approved: bool) -> None:
        trigger_id = self.trigger_of(model, data)
        control = ApprovalControl(
            model=model, command_id="c", trigger_id=trigger_id, approved=approved, by="ann", why="so", ts=1
        )
        emitted, now_ms = self.append(control.encode())
        known = self.oracle.models.get(model)
        done = known.approve(trigger_id, approved, now_ms) if known else None
        if done is None:
            self.compare(emitted, self.oracle.dead(control.encode(), self.offset, now_ms))
        else:
            self.compare(emitted, self.decided(model, [("triggers", trigger) for trigger in done]))

    @rule(model=st.sampled_from(MODELS), data=st.data(), status=st.sampled_from(ENDS), last=st.booleans())
    def a_run_ends(self, model: str, data: st.DataObject, status: RunStatus, last: bool) -> None:
        trigger_id = self.trigger_of(model, data)
        control = RunControl(
            model=model, run_id="r", trigger_id=trigger_id, stage=0, last_stage=last, status=status, ts=1
        )
        emitted, now_ms = self.append(control.encode())
        known = self.oracle.models.get(model)
        if known is None or not known.run_ended(trigger_id, status, last, now_ms):
            self.compare(emitted, self.oracle.dead(control.encode(), self.offset, now_ms))
        else:
            self.compare(emitted, self.decided(model, []))

    @rule(garbage=st.binary(max_size=30))
    def garbage_comes(self, garbage: bytes) -> None:
        emitted, now_ms = self.append(b"{" + garbage)
        self.compare(emitted, self.oracle.dead(b"{" + garbage, self.offset, now_ms))

    @rule(hours=st.sampled_from([0, 1, 3, 24 * 60]))
    def time_passes(self, hours: int) -> None:
        emitted, _ = self.append(TickControl().encode(), hours * HOUR_MS)
        self.compare(emitted, [])

    @rule(gap=st.integers(1, 5))
    def a_transaction_is_aborted(self, gap: int) -> None:
        """Its records are never read: the offsets jump."""
        self.offset += gap

    # --- what happens to the process ---

    @rule()
    def a_snapshot_is_kept(self) -> None:
        self.kept = (self.core.snapshot(), len(self.records))

    @rule(overlap=st.integers(0, 4), moves_on=st.booleans())
    def it_crashes(self, overlap: int, moves_on: bool) -> None:
        """Another owner begins at the snapshot, reads some records twice, and emits what was emitted."""
        data, at = self.kept
        again = VitalsCore.restore(data)
        for i in range(max(0, at - overlap), len(self.records)):
            offset, value, append_ms = self.records[i]
            emitted = again.apply(value, offset=offset, append_time_ms=append_ms)
            assert emitted == ([] if i < at else self.emitted[i])
            assert again.apply(value, offset=offset, append_time_ms=append_ms) == []
        assert again.snapshot() == self.core.snapshot()
        self.core = again
        if moves_on:
            self.kept = (again.snapshot(), len(self.records))

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def a_record_comes_again(self, data: st.DataObject) -> None:
        offset, value, append_ms = data.draw(st.sampled_from(self.records))
        before = self.core.snapshot()
        assert self.core.apply(value, offset=offset, append_time_ms=append_ms) == []
        assert self.core.snapshot() == before

    # --- what always holds ---

    @invariant()
    def the_state_is_the_oracles(self) -> None:
        core = VitalsCore.restore(self.core.snapshot())
        assert list(core.models) == list(self.oracle.models)
        assert core.applied_offset == (self.records[-1][0] if self.records else -1)
        for name, state in core.models.items():
            model, policy, monitor = self.oracle.models[name], state.policy, state.monitor
            assert policy.champion == monitor.champion == model.champion
            assert policy.last_fired_ms == model.last_fired_ms
            assert (policy.fired, policy.outcomes) == (model.fired, model.outcomes)
            held = {trigger_id: (one.state, one.since_ms) for trigger_id, one in policy.triggers.items()}
            assert held == {name: (one.state, one.since_ms) for name, one in model.triggers.items()}
            assert list(monitor.versions) == list(model.watched)
            for key, version in monitor.versions.items():
                _compare_errors(version.errors, model.watched[key].errors)
                windows = model.watched[key].windows
                assert (version.comparisons is None) == (windows is None)
                if version.comparisons is not None:
                    _compare_windows(version.comparisons, windows)


def _compare_errors(stream: ErrorStream, oracle: Any) -> None:
    assert (stream.bits, stream.count) == (oracle.bits, oracle.count)
    assert same({name: list(astuple(alert)) for name, alert in stream.alerts.items()},
                {name: alarm.row() for name, alarm in oracle.alarms.items()})  # fmt: skip
    blocks = [oracle.values[i : i + 16] for i in range(0, oracle.count, 16)]
    assert same(stream.history.sums, [math.fsum(block) for block in blocks])
    assert stream.rolling.values.tolist() == oracle.rolling()
    sums, page_hinkley = oracle.page_hinkley_sums(), stream.page_hinkley
    assert (page_hinkley.since, page_hinkley.n) == (oracle.page_hinkley_since, len(sums))
    if sums:
        assert same(page_hinkley.minimum, min(sums))
        assert same(page_hinkley.sum, sums[-1])
        lowest = min(range(len(sums)), key=lambda i: (round(sums[i], 9), i))
        assert page_hinkley.change == oracle.to_page_hinkley[lowest][0] + 1
    assert stream.adwin.width == (oracle.adwin_width if oracle.to_adwin else 0)


def _compare_windows(state: Comparisons, oracle: Any) -> None:
    assert same(
        {name: [alert.state, alert.index, alert.level] for name, alert in state.alerts.items()},
        {name: [alarm.state, alarm.index, alarm.level] for name, alarm in oracle.alarms.items()},
    )
    assert {"data": state.data_since, "prediction": state.prediction_since} == oracle.starts
    assert [state.served.rows, state.served.failed] == [
        sum(seen.predictions for seen in oracle.held["served"]),
        sum(seen.failed for seen in oracle.held["served"]),
    ]
    assert state.latency.rows == state.latency.counts.bins.sum() == oracle.rows("latency")
    assert state.segments.rows == oracle.rows("segments")


def _entry(model: str, seen: Seen) -> ModelVitals:
    errors = np.array(seen.errors)
    return entry(
        errors.astype(bool) if seen.bits else errors,
        model=model,
        version=seen.version,
        role=cast("Role", seen.role),
        seqs=seen.seqs or None,
        ts=seen.ts,
        predictions=seen.predictions,
        failed=seen.failed,
        latency=seen.latency or None,
        predicted=seen.predicted or None,
        rows=seen.rows,
        numbers={"amount": sketch(seen.amounts, seen.nulls)} if seen.amounts or seen.nulls else None,
        categories={"country": CategoryCounts(count=sum(seen.countries.values()), counts=seen.countries)}
        if seen.countries
        else None,
        segments={
            "region": {name: SegmentErrors(count=n, error_sum=total) for name, (n, total) in
                       seen.segments.items()}
        } if seen.segments else None,
    )  # fmt: skip


MonitorMachine.TestCase.settings = effort(runs=40, steps=30)
TestMonitor = MonitorMachine.TestCase
