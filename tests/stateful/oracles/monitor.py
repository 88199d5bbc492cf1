"""What one vitals partition must emit: every model's drift and triggers, computed again in the plainest way.

Every policy decides after every record, so that it cannot miss a time.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Literal

from driftloop.schemas.serving import Reference
from driftloop.schemas.spec.model import ModelSpec

from tests.stateful.oracles.errors import ErrorOracle, Found, Seen, named
from tests.stateful.oracles.windows import WindowOracle

HOUR_MS = 3_600_000
HOURLY = "0 * * * *"
MOST_WATCHED = 8
Key = tuple[int, str]


@dataclass
class OracleTrigger:
    """A trigger; ``drifts``: condition, drift and kind of what it is for."""

    trigger: Found
    state: str
    since_ms: int
    drifts: list[tuple[str, Found]] = field(default_factory=list[tuple[str, Found]])

    @property
    def active(self) -> bool:
        return self.state in ("pending", "open")


@dataclass
class Watched:
    errors: ErrorOracle
    windows: WindowOracle | None = None
    reference: Reference | None = None

    def alarmed(self) -> list[str]:
        return self.errors.alarmed() + (self.windows.alarmed() if self.windows else [])


class ModelOracle:
    """One model's monitor and policy."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.spec = ModelSpec()
        self.champion = 0
        self.retired = False
        self.watched: dict[Key, Watched] = {}
        self.pending: dict[str, Found] = {}
        self.triggers: dict[str, OracleTrigger] = {}
        self.fired = self.outcomes = 0
        self.last_fired_ms: int | None = None
        self.next_hour_ms: int | None = None
        self.due_ms: int | None = None

    # --- the monitor ---

    def watch(self, key: Key) -> Watched:
        return self.watched.setdefault(key, Watched(ErrorOracle(self.spec)))

    def forget(self) -> None:
        """Drop the longest silent first, never the champion."""
        while len(self.watched) > MOST_WATCHED:
            del self.watched[next(key for key in self.watched if key != (self.champion, "champion"))]

    def observe(self, seen: Seen, place: tuple[int, int], now_ms: int) -> list[Found]:
        if seen.role == "champion":
            self.outcomes += len(seen.errors)
        if seen.version == 0:
            return []
        key = (seen.version, seen.role)
        watched = self.watch(key)
        self.watched[key] = self.watched.pop(key)
        self.forget()
        found = watched.errors.add(seen, self.spec, watched.reference)
        count = watched.errors.count
        if watched.windows:
            found += watched.windows.add(seen, self.spec, watched.errors.places, count)
        events: list[Found] = []
        for number, one in enumerate(found):
            causes = (one["detector"], one["subject"], one["severity"], *place, count, number)
            drift = {
                "drift_id": named("drift", self.model, seen.version, seen.role, *causes),
                "model": self.model, "version": seen.version, "role": seen.role, "ts": now_ms,
                "caused_append_ms": seen.append_ms, **one,
            }  # fmt: skip
            events.append(drift)
            if drift["severity"] == "alarm" and key == (self.champion, "champion"):
                self.pending[f"{one['detector']}/{one['subject']}"] = drift
        return events

    def live(self, version: int, reference: Reference | None, now_ms: int) -> list[Found]:
        events: list[Found] = []
        self.retired = version == 0
        if version != self.champion:
            self.champion, self.outcomes = version, 0
            self.pending.clear()
            self.watched.pop((version, "champion"), None)
            for record in self.triggers.values():
                if record.state == "pending":
                    events.append(self._withdrawn(record, f"version {version} is live now", now_ms))
        if version:
            watched = self.watch((version, "champion"))
            self.forget()
            if reference is not None and watched.windows is None:
                watched.windows = WindowOracle(reference)
            elif watched.windows is not None and reference is not None and reference != watched.reference:
                watched.windows.begin(reference)
            watched.reference = reference or watched.reference
        return events

    def alarmed(self) -> list[str]:
        watched = self.watched.get((self.champion, "champion"))
        return watched.alarmed() if watched else []

    # --- the policy ---

    def apply_spec(self, spec: ModelSpec) -> None:
        if spec.triggers.schedule != self.spec.triggers.schedule:
            self.next_hour_ms = self.due_ms = None
        self.spec = spec

    def hours_pass(self, now_ms: int) -> None:
        """An hour that strikes while there is a champion is due."""
        if self.spec.triggers.schedule != HOURLY:
            return
        if self.next_hour_ms is not None and now_ms >= self.next_hour_ms and self.champion:
            self.due_ms = self.next_hour_ms
        if self.next_hour_ms is None or now_ms >= self.next_hour_ms:
            self.next_hour_ms = (now_ms // HOUR_MS + 1) * HOUR_MS

    def decide(self, now_ms: int) -> list[Found]:
        events: list[Found] = []
        window, rules = self.spec.window, self.spec.triggers
        timeout = (1 + len(window.follow_ups)) * (window.max_wait + window.time_limit)
        for record in self.triggers.values():
            if record.active and now_ms >= record.since_ms + timeout:
                if record.state == "pending":
                    events.append(self._withdrawn(record, "nobody decided in time", now_ms))
                else:
                    record.state, record.since_ms = "closed", now_ms
        self.hours_pass(now_ms)
        alarmed = self.alarmed()
        self.pending = {name: drift for name, drift in self.pending.items() if name in alarmed}
        if any(record.active for record in self.triggers.values()):
            return events
        wanted = [(name, drift) for name, drift in self.pending.items() if drift["kind"] in rules.on]
        cooled = self.last_fired_ms is None or now_ms >= self.last_fired_ms + rules.cooldown
        if wanted and cooled:
            return [*events, self._fire("drift", now_ms, wanted)]
        least = rules.volume if self.champion else None if self.retired else rules.first_labels
        if least is not None and self.outcomes >= least:
            self.outcomes = 0
            return [*events, self._fire("volume", now_ms, [])]
        if self.champion and self.due_ms is not None:
            return [*events, self._fire("schedule", now_ms, [])]
        return events

    def _fire(self, reason: str, now_ms: int, drifts: list[tuple[str, Found]]) -> Found:
        causes: list[Any] = [drift["drift_id"] for _, drift in drifts]
        if reason == "schedule":
            causes, self.due_ms = [self.due_ms], None
        needed = self.spec.triggers.approval == "needed"
        trigger = self._trigger(
            named("trigger", self.model, self.champion, reason, self.fired, *causes), reason, now_ms
        ) | {
            "drifts": [drift["drift_id"] for _, drift in drifts],
            "approval": "pending" if needed else "automatic",
        }
        dated = [drift for _, drift in drifts if "estimated_change" in drift]
        kinds = [kind for kind in ("concept", "accuracy", "prediction", "data") for drift in dated if
                 drift["kind"] == kind]  # fmt: skip
        if kinds:
            changes = [drift["estimated_change"] for drift in dated if drift["kind"] == kinds[0]]
            trigger["estimated_change"] = max(changes, key=lambda change: change["ts"])
        for name, _ in drifts:
            del self.pending[name]
        self._remember(trigger, "pending" if needed else "open", now_ms, drifts)
        return trigger

    def _trigger(self, trigger_id: str, reason: str, now_ms: int) -> Found:
        return {
            "trigger_id": trigger_id, "model": self.model, "version": self.champion, "reason": reason,
            "ts": now_ms, "drifts": [], "spec_digest": self.spec.digest(),
        }  # fmt: skip

    def _remember(self, trigger: Found, state: str, now_ms: int, drifts: list[tuple[str, Found]]) -> None:
        self.fired, self.last_fired_ms = self.fired + 1, now_ms
        self.triggers[trigger["trigger_id"]] = OracleTrigger(trigger, state, now_ms, drifts)

    def _withdrawn(self, record: OracleTrigger, why: str, now_ms: int) -> Found:
        record.state, record.since_ms = "withdrawn", now_ms
        record.trigger = record.trigger | {"approval": "denied", "by": "policy", "why": why, "ts": now_ms}
        return record.trigger

    def request(self, command_id: str, now_ms: int) -> list[Found]:
        trigger_id = named("trigger", self.model, "manual", command_id)
        if trigger_id in self.triggers:
            return []
        approval = "approved" if self.spec.triggers.approval == "needed" else "automatic"
        trigger = self._trigger(trigger_id, "manual", now_ms)
        trigger |= {"approval": approval, "by": "ann", "why": "so"}
        self._remember(trigger, "open", now_ms, [])
        return [trigger]

    def approve(self, trigger_id: str, approved: bool, now_ms: int) -> list[Found] | None:
        """Return None where that is impossible."""
        record = self.triggers.get(trigger_id)
        if record is None or record.state != "pending":
            return None
        record.state, record.since_ms = "open" if approved else "denied", now_ms
        answer = "approved" if approved else "denied"
        record.trigger = record.trigger | {"approval": answer, "by": "ann", "why": "so", "ts": now_ms}
        return [record.trigger]

    def run_ended(self, trigger_id: str, status: str, last: bool, now_ms: int) -> bool:
        """Return False where that is impossible."""
        record = self.triggers.get(trigger_id)
        if record is None:
            return False
        if not last and status in ("rejected", "failed"):
            return True
        was_open, record.since_ms = record.state == "open", now_ms
        record.state = "closed" if record.active else record.state
        if was_open and status == "promoted":
            self.pending.clear()
        if was_open and status == "failed":
            for name, drift in record.drifts:
                if drift["version"] == self.champion:
                    self.pending.setdefault(name, drift)
        watched = self.watched.get((self.champion, "champion"))
        if was_open and status == "rejected" and record.trigger["version"] == self.champion and watched:
            watched.errors.acknowledge()
            if watched.windows:
                watched.windows.acknowledge(watched.errors.count)
        return True


ExpectedEvent = tuple[Literal["drift", "triggers", "dead-letters"], Found]


class PartitionOracle:
    """One vitals partition. It gets each record's meaning, not its bytes."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.now_ms = 0
        self.models: dict[str, ModelOracle] = {}

    def model(self, name: str) -> ModelOracle:
        return self.models.setdefault(name, ModelOracle(name))

    def at(self, append_ms: int) -> int:
        self.now_ms = max(self.now_ms, append_ms)
        for model in self.models.values():
            model.hours_pass(self.now_ms)
        return self.now_ms

    def fits(self, batch: list[tuple[str, Seen]]) -> bool:
        kinds = {(name, seen.version, seen.role, seen.bits) for name, seen in batch if seen.errors}
        if len(kinds) > len({kind[:3] for kind in kinds}):
            return False
        for name, seen in batch:
            model = self.models.get(name)
            watched = model.watched.get((seen.version, seen.role)) if model else None
            if watched is not None and not watched.errors.fits(seen):
                return False
        return True

    def observe(self, batch: list[tuple[str, Seen]], offset: int) -> list[ExpectedEvent]:
        """Return what a vitals message that fits causes."""
        expected: list[ExpectedEvent] = []
        for name in dict.fromkeys(name for name, _ in batch):
            for seen in (seen for other, seen in batch if other == name):
                drifts = self.model(name).observe(seen, (self.partition, offset), self.now_ms)
                expected += [("drift", drift) for drift in drifts]
            expected += [("triggers", trigger) for trigger in self.model(name).decide(self.now_ms)]
        return expected

    def others(self) -> list[ExpectedEvent]:
        """After each record, time alone may cause a trigger of any model."""
        return [
            ("triggers", trigger)
            for model in self.models.values()
            for trigger in model.decide(self.now_ms)
        ]  # fmt: skip

    def dead(self, value: bytes, offset: int, append_ms: int) -> list[ExpectedEvent]:
        letter = {
            "id": named("dead", "vitals", self.partition, offset), "stage": "monitor", "topic": "vitals",
            "partition": self.partition, "offset": offset, "append_ms": append_ms,
            "value_b64": base64.b64encode(value).decode(),
        }  # fmt: skip
        return [("dead-letters", letter)]
