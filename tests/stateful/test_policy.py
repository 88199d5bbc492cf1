"""The policy against a plain oracle, and the monitor's core against itself: crashes, repeats, any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from driftloop.schemas.control import ApprovalControl, RequestControl, RunControl, SpecControl, TickControl
from driftloop.schemas.decisions import Drift, DriftKind, Trigger
from driftloop.schemas.errors import IllegalTransition
from driftloop.schemas.runs import TERMINAL, RunStatus
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.monitor.core import Emitted, VitalsCore
from driftloop.streams.monitor.policy.policy import Policy
from driftloop.streams.monitor.state import decode_state, encode_state
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.fuzz import effort
from tests.support.monitor.records import (
    MODEL,
    START_MS,
    bits,
    entry,
    reference,
    run_record,
    spec_record,
    update_record,
    vitals,
)

HOUR_MS = 3_600_000
KINDS: tuple[DriftKind, ...] = ("concept", "accuracy", "data")
ENDS: tuple[RunStatus, ...] = tuple(sorted(TERMINAL))


def rules(approval: str = "automatic", volume: int | None = None) -> ModelSpec:
    table = {"cooldown": "2h", "approval": approval, "volume": volume, "first_labels": 50}
    return ModelSpec.model_validate({"triggers": table})


@dataclass
class KnownTrigger:
    """A trigger as the oracle sees it."""

    version: int
    state: str
    since_ms: int
    conditions: tuple[str, ...] = ()


@dataclass
class Oracle:
    """What the policy promises, computed again in the plainest way."""

    spec: ModelSpec = field(default_factory=ModelSpec)
    champion: int = 0
    retired: bool = False
    outcomes: int = 0
    last_fired_ms: int | None = None
    pending: dict[str, DriftKind] = field(default_factory=dict[str, DriftKind])
    triggers: dict[str, KnownTrigger] = field(default_factory=dict[str, KnownTrigger])
    kinds: dict[str, DriftKind] = field(default_factory=dict[str, DriftKind])

    @property
    def active(self) -> bool:
        return any(one.state in ("pending", "open") for one in self.triggers.values())

    def next_reason(self, now_ms: int, alarmed: frozenset[str]) -> str | None:
        """Why there must be a trigger now."""
        self.pending = {name: kind for name, kind in self.pending.items() if name in alarmed}
        window = self.spec.window
        timeout = (1 + len(window.follow_ups)) * (window.max_wait + window.time_limit)
        for one in self.triggers.values():
            if one.state in ("pending", "open") and now_ms >= one.since_ms + timeout:
                one.state = "withdrawn" if one.state == "pending" else "closed"
        if self.active:
            return None
        wanted = [kind for kind in self.pending.values() if kind in self.spec.triggers.on]
        cooled = self.last_fired_ms is None or now_ms >= self.last_fired_ms + self.spec.triggers.cooldown
        if wanted and cooled:
            return "drift"
        if self.champion == 0:
            enough = self.outcomes >= self.spec.triggers.first_labels
            return "volume" if enough and not self.retired else None
        volume = self.spec.triggers.volume
        return "volume" if volume is not None and self.outcomes >= volume else None


class PolicyMachine(RuleBasedStateMachine):
    """One model's policy. After each input it decides, as the core makes it do."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(MODEL)
        self.oracle = Oracle()
        self.now_ms = START_MS
        self.alarmed: set[str] = set()
        self.number = 0

    def decide(self) -> None:
        emitted = self.policy.decide(self.now_ms, frozenset(f"d/{kind}" for kind in self.alarmed))
        made = [trigger for trigger in emitted if trigger.approval != "denied"]
        reason = self.oracle.next_reason(self.now_ms, frozenset(self.alarmed))
        assert [trigger.reason for trigger in made] == ([] if reason is None else [reason])
        for trigger in made:
            self.fired(trigger)

    def fired(self, trigger: Trigger) -> None:
        assert trigger.trigger_id not in self.oracle.triggers, "a trigger is made once"
        assert trigger.version == self.oracle.champion
        conditions: tuple[str, ...] = ()
        if trigger.reason == "drift":
            on = self.oracle.spec.triggers.on
            conditions = tuple(name for name, kind in self.oracle.pending.items() if kind in on)
            assert len(trigger.drifts) == len(conditions)
            for name in conditions:
                self.oracle.kinds[name] = self.oracle.pending.pop(name)
        if trigger.reason == "volume":
            self.oracle.outcomes = 0
        state = "pending" if trigger.approval == "pending" else "open"
        self.oracle.last_fired_ms = self.now_ms
        self.oracle.triggers[trigger.trigger_id] = KnownTrigger(
            trigger.version, state, self.now_ms, conditions
        )

    @rule(approval=st.sampled_from(["automatic", "needed"]), volume=st.none() | st.just(200))
    def a_spec_is_applied(self, approval: str, volume: int | None) -> None:
        spec = rules(approval, volume)
        table = spec.model_dump(mode="json")
        self.policy.on_spec(SpecControl(model=MODEL, digest=spec.digest(), spec=table, ts=self.now_ms))
        self.oracle.spec = spec
        self.decide()

    @rule(version=st.integers(0, 3))
    def a_version_goes_live(self, version: int) -> None:
        emitted = self.policy.on_champion(version, self.now_ms)
        self.oracle.retired = version == 0
        if version != self.oracle.champion:
            pending = [name for name, one in self.oracle.triggers.items() if one.state == "pending"]
            assert [trigger.trigger_id for trigger in emitted] == pending
            for name in pending:
                self.oracle.triggers[name].state = "withdrawn"
            self.oracle.champion, self.oracle.outcomes = version, 0
            self.oracle.pending.clear()
        self.decide()

    @rule(
        kind=st.sampled_from(KINDS),
        severity=st.sampled_from(["alarm", "alarm", "warning"]),
        role=st.sampled_from(["champion", "champion", "shadow"]),
        older=st.integers(0, 1),
    )
    def a_drift_is_found(self, kind: DriftKind, severity: str, role: str, older: int) -> None:
        self.number += 1
        version = self.oracle.champion - older
        drift = Drift.model_validate(
            {
                "drift_id": f"drift-{self.number}", "model": MODEL, "version": max(0, version), "role": role,
                "kind": kind, "detector": "d", "subject": kind, "severity": severity, "value": 1.0,
                "threshold": 0.5, "ts": self.now_ms,
            }
        )  # fmt: skip
        self.policy.on_drift(drift)
        if severity == "alarm":
            self.alarmed.add(kind)
        if severity == "alarm" and role == "champion" and older == 0 and self.oracle.champion:
            self.oracle.pending[kind] = kind
        self.decide()

    @precondition(lambda self: self.alarmed)
    @rule(data=st.data())
    def an_alarm_is_over(self, data: st.DataObject) -> None:
        self.alarmed.discard(data.draw(st.sampled_from(sorted(self.alarmed))))
        self.decide()

    @rule(count=st.sampled_from([1, 30, 120]))
    def outcomes_come(self, count: int) -> None:
        self.policy.on_outcomes("champion", count)
        self.policy.on_outcomes("shadow", count)
        self.oracle.outcomes += count
        self.decide()

    @rule(hours=st.sampled_from([0, 1, 3, 24 * 60]))
    def time_passes(self, hours: int) -> None:
        wake_ms = self.policy.wake_ms()
        self.now_ms += hours * HOUR_MS
        before = len(self.oracle.triggers)
        self.decide()
        assert len(self.oracle.triggers) == before or wake_ms <= self.now_ms, "a time was missed"

    @rule(again=st.booleans())
    def a_person_asks(self, again: bool) -> None:
        self.number += 1
        request = RequestControl(
            model=MODEL, command_id=f"command-{self.number}", by="ann", why="so", ts=self.now_ms
        )
        (trigger,) = self.policy.on_request(request, self.now_ms)
        self.fired(trigger)
        if again:
            assert self.policy.on_request(request, self.now_ms) == []
        self.decide()

    @precondition(lambda self: self.oracle.triggers)
    @rule(data=st.data(), approved=st.booleans())
    def somebody_decides(self, data: st.DataObject, approved: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.triggers)))
        control = ApprovalControl(
            model=MODEL,
            command_id="c",
            trigger_id=name,
            approved=approved,
            by="ann",
            why="so",
            ts=self.now_ms,
        )
        one = self.oracle.triggers[name]
        before = encode_state(self.policy)
        try:
            (emitted,) = self.policy.on_approval(control, self.now_ms)
        except IllegalTransition:
            assert one.state != "pending"
            assert encode_state(self.policy) == before
        else:
            assert one.state == "pending"
            assert (emitted.trigger_id, emitted.approval) == (name, "approved" if approved else "denied")
            one.state, one.since_ms = ("open" if approved else "denied"), self.now_ms
        self.decide()

    @precondition(lambda self: self.oracle.triggers)
    @rule(data=st.data(), status=st.sampled_from(ENDS), last=st.booleans())
    def a_run_ends(self, data: st.DataObject, status: RunStatus, last: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.triggers)))
        one = self.oracle.triggers[name]
        no_better = self.policy.on_run(
            RunControl(
                model=MODEL, run_id="r", trigger_id=name, stage=0, last_stage=last, status=status, ts=1
            ),
            self.now_ms,
        )
        if not last and status in ("rejected", "failed"):
            assert not no_better
        else:
            was_open, one.state = one.state == "open", _ended(one.state)
            assert no_better == (was_open and status == "rejected" and one.version == self.oracle.champion)
            if was_open and status == "promoted":
                self.oracle.pending.clear()
            if was_open and status == "failed" and one.version == self.oracle.champion:
                for condition in one.conditions:
                    self.oracle.pending.setdefault(condition, self.oracle.kinds[condition])
        self.decide()

    @rule()
    def it_crashes(self) -> None:
        self.policy = decode_state(encode_state(self.policy), Policy)

    @invariant()
    def one_at_a_time_unless_people_ask(self) -> None:
        open_ones = [one for one in self.oracle.triggers.values() if one.state in ("pending", "open")]
        by_itself = [one for one in open_ones if one.state == "pending" or one.conditions]
        assert len(by_itself) <= 1


def _ended(state: str) -> str:
    return "closed" if state in ("pending", "open") else state


class PolicyLogMachine(RuleBasedStateMachine):
    """A vitals partition. Whatever crashed, what was emitted is what one replay of it emits."""

    def __init__(self) -> None:
        super().__init__()
        self.core = VitalsCore(0)
        self.records: list[tuple[bytes, int]] = []
        self.emitted: list[Emitted] = []
        self.kept = (self.core.snapshot(), 0)
        self.now_ms = START_MS
        self.seqs: dict[int, int] = {}
        self.seed = 0

    def append(self, value: bytes) -> None:
        self.now_ms += 1_000
        self.records.append((value, self.now_ms))
        self.emitted += self.core.apply(value, offset=len(self.records) - 1, append_time_ms=self.now_ms)

    @rule(
        rate=st.sampled_from([0.05, 0.2, 0.2, 0.6]),
        count=st.sampled_from([1, 60, 400]),
        version=st.sampled_from([1, 1, 2]),
        shadow=st.booleans(),
    )
    def outcomes_come(self, rate: float, count: int, version: int, shadow: bool) -> None:
        self.seed += 1
        known: dict[str, Any] = {"role": "shadow"} if shadow else {}
        first = self.seqs.get(0, 0)
        self.seqs[0] = first + count
        seen = entry(bits(rate, count, self.seed), version=version, first_seq=first, **known)
        self.append(vitals(seen, append_ms=self.now_ms))

    @rule(version=st.sampled_from([0, 1, 2]))
    def a_version_goes_live(self, version: int) -> None:
        self.append(update_record(version, reference() if version else None))

    @rule(approval=st.sampled_from(["automatic", "needed"]))
    def a_spec_is_applied(self, approval: str) -> None:
        self.append(spec_record(rules(approval)))

    @rule(status=st.sampled_from(ENDS))
    def a_run_ends(self, status: RunStatus) -> None:
        triggers = [Trigger.decode(one.value) for one in self.emitted if one.topic.name == "triggers"]
        self.append(run_record(triggers[-1].trigger_id if triggers else "none", status))

    @rule(garbage=st.binary(max_size=30))
    def garbage_comes(self, garbage: bytes) -> None:
        before = len(self.emitted)
        self.append(b"{" + garbage)
        assert any(one.topic.name == "dead-letters" for one in self.emitted[before:])

    @rule(hours=st.sampled_from([1, 48]))
    def time_passes(self, hours: int) -> None:
        self.now_ms += hours * HOUR_MS
        self.append(TickControl().encode())

    @rule()
    def a_snapshot_is_kept(self) -> None:
        self.kept = (self.core.snapshot(), len(self.records))

    @rule()
    def it_crashes(self) -> None:
        """What came since the snapshot is applied again, with the same result."""
        data, at = self.kept
        again = VitalsCore.restore(data)
        before = sum(1 for _ in self.emitted)
        emitted: list[Emitted] = []
        for offset in range(at, len(self.records)):
            value, append_ms = self.records[offset]
            emitted += again.apply(value, offset=offset, append_time_ms=append_ms)
        assert emitted == self.emitted[before - len(emitted) :]
        assert again.snapshot() == self.core.snapshot()
        self.core = again

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def a_record_comes_again(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, len(self.records) - 1))
        value, append_ms = self.records[offset]
        before = self.core.snapshot()
        assert self.core.apply(value, offset=offset, append_time_ms=append_ms) == []
        assert self.core.snapshot() == before

    def teardown(self) -> None:
        once = VitalsCore(0)
        emitted = [
            event
            for offset, (value, append_ms) in enumerate(self.records)
            for event in once.apply(value, offset=offset, append_time_ms=append_ms)
        ]
        assert emitted == self.emitted
        assert once.snapshot() == self.core.snapshot()


PolicyMachine.TestCase.settings = effort(runs=100, steps=40)
TestPolicy = PolicyMachine.TestCase
PolicyLogMachine.TestCase.settings = effort(runs=40, steps=30)
TestPolicyLog = PolicyLogMachine.TestCase
