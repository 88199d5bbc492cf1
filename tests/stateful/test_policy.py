"""One model's policy against the oracle: every order of drifts, versions, requests, decisions and ends."""

from __future__ import annotations

from typing import Any

import orjson
from driftloop.schemas.control import ApprovalControl, RequestControl, RunControl, SpecControl
from driftloop.schemas.decisions import Drift, DriftKind, Trigger
from driftloop.schemas.errors import IllegalTransition
from driftloop.schemas.runs import TERMINAL, RunStatus
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.monitor.policy.policy import Policy
from driftloop.streams.monitor.state import decode_state, encode_state
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.stateful.oracles.errors import Found
from tests.stateful.oracles.monitor import HOUR_MS, HOURLY, ModelOracle
from tests.support.fuzz import effort
from tests.support.monitor.records import MODEL, START_MS

KINDS: tuple[DriftKind, ...] = ("concept", "accuracy", "data")
ENDS: tuple[RunStatus, ...] = tuple(sorted(TERMINAL))


class PolicyOracle(ModelOracle):
    """A model whose conditions are those that the test says are alarmed."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.conditions: set[str] = set()

    def alarmed(self) -> list[str]:
        return sorted(self.conditions)


class PolicyMachine(RuleBasedStateMachine):
    """After each input the policy decides, as the core makes it do."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.oracle = Policy(MODEL), PolicyOracle()
        self.now_ms = START_MS
        self.number = 0

    def compare(self, emitted: list[Trigger], expected: list[Found]) -> None:
        """What the input itself caused, then what the policy decides after it."""
        emitted = emitted + self.policy.decide(self.now_ms, frozenset(self.oracle.conditions))
        expected = expected + self.oracle.decide(self.now_ms)
        assert [orjson.loads(trigger.encode()) for trigger in emitted] == expected

    @rule(
        approval=st.sampled_from(["automatic", "needed"]),
        volume=st.none() | st.just(200),
        schedule=st.none() | st.just(HOURLY),
    )
    def a_spec_is_applied(self, approval: str, volume: int | None, schedule: str | None) -> None:
        table = {"cooldown": "2h", "approval": approval, "volume": volume, "first_labels": 50}
        spec = ModelSpec.model_validate({"triggers": table | {"schedule": schedule}})
        control = SpecControl(
            model=MODEL, digest=spec.digest(), spec=spec.model_dump(mode="json"), ts=self.now_ms
        )
        self.policy.on_spec(control)
        self.oracle.apply_spec(spec)
        self.compare([], [])

    @rule(version=st.integers(0, 3))
    def a_version_goes_live(self, version: int) -> None:
        emitted = self.policy.on_champion(version, self.now_ms)
        self.oracle.hours_pass(self.now_ms)
        self.compare(emitted, self.oracle.live(version, None, self.now_ms))

    @rule(
        kind=st.sampled_from(KINDS),
        severity=st.sampled_from(["alarm", "alarm", "warning"]),
        role=st.sampled_from(["champion", "champion", "shadow"]),
        older=st.integers(0, 1),
    )
    def a_drift_is_found(self, kind: DriftKind, severity: str, role: str, older: int) -> None:
        self.number += 1
        version = max(0, self.oracle.champion - older)
        drift: dict[str, Any] = {
            "drift_id": f"drift-{self.number}", "model": MODEL, "version": version, "role": role,
            "kind": kind, "detector": "d", "subject": kind, "severity": severity, "value": 1.0,
            "threshold": 0.5, "ts": self.now_ms,
        }  # fmt: skip
        self.policy.on_drift(Drift.model_validate(drift))
        if severity == "alarm":
            self.oracle.conditions.add(f"d/{kind}")
            if role == "champion" and version == self.oracle.champion > 0:
                self.oracle.pending[f"d/{kind}"] = drift
        self.compare([], [])

    @precondition(lambda self: self.oracle.conditions)
    @rule(data=st.data())
    def an_alarm_is_over(self, data: st.DataObject) -> None:
        self.oracle.conditions.discard(data.draw(st.sampled_from(self.oracle.alarmed())))
        self.compare([], [])

    @rule(count=st.sampled_from([1, 30, 120]))
    def outcomes_come(self, count: int) -> None:
        self.policy.on_outcomes("champion", count)
        self.policy.on_outcomes("shadow", count)
        self.oracle.outcomes += count
        self.compare([], [])

    @rule(hours=st.sampled_from([0, 1, 3, 24 * 60]))
    def time_passes(self, hours: int) -> None:
        wake_ms, before = self.policy.wake_ms(), len(self.oracle.triggers)
        self.now_ms += hours * HOUR_MS
        self.compare([], [])
        assert len(self.oracle.triggers) == before or wake_ms <= self.now_ms, "a time was missed"

    @rule(again=st.booleans())
    def a_person_asks(self, again: bool) -> None:
        self.number += 1
        name = f"command-{self.number}"
        request = RequestControl(model=MODEL, command_id=name, by="ann", why="so", ts=self.now_ms)
        emitted = self.policy.on_request(request, self.now_ms)
        if again:
            assert self.policy.on_request(request, self.now_ms) == []
        self.compare(emitted, self.oracle.request(name, self.now_ms))

    @precondition(lambda self: self.oracle.triggers)
    @rule(data=st.data(), approved=st.booleans())
    def somebody_decides(self, data: st.DataObject, approved: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.triggers)))
        control = ApprovalControl(
            model=MODEL, command_id="c", trigger_id=name, approved=approved, by="ann", why="so",
            ts=self.now_ms,
        )  # fmt: skip
        expected, before = self.oracle.approve(name, approved, self.now_ms), encode_state(self.policy)
        try:
            emitted = self.policy.on_approval(control, self.now_ms)
        except IllegalTransition:
            assert expected is None
            assert encode_state(self.policy) == before
            emitted, expected = [], []
        assert expected is not None
        self.compare(emitted, expected)

    @precondition(lambda self: self.oracle.triggers)
    @rule(data=st.data(), status=st.sampled_from(ENDS), last=st.booleans())
    def a_run_ends(self, data: st.DataObject, status: RunStatus, last: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.triggers)))
        known = self.oracle.triggers[name]
        rejected = known.state == "open" and status == "rejected" and last
        control = RunControl(
            model=MODEL, run_id="r", trigger_id=name, stage=0, last_stage=last, status=status, ts=1
        )
        no_better = self.policy.on_run(control, self.now_ms)
        assert no_better == (rejected and known.trigger["version"] == self.oracle.champion)
        assert self.oracle.run_ended(name, status, last, self.now_ms)
        self.compare([], [])

    @rule()
    def it_crashes(self) -> None:
        self.policy = decode_state(encode_state(self.policy), Policy)

    @invariant()
    def one_at_a_time_unless_people_ask(self) -> None:
        active = [one for one in self.oracle.triggers.values() if one.active]
        assert sum(one.state == "pending" or bool(one.drifts) for one in active) <= 1


PolicyMachine.TestCase.settings = effort(runs=100, steps=40)
TestPolicy = PolicyMachine.TestCase
