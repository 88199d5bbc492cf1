"""The policy of one model: drift, a schedule, a volume of labels or a person's request becomes a trigger.

- drift: an alarm of the champion whose kind the spec names. Kept while it must wait (for the cooldown, or
  for an open run), it fires afterwards if its condition still holds and the version is still the champion.
- volume: every N outcomes of the champion; while there is none, the first N labels ask for version 1.
- schedule: cron, in UTC. One that comes due while a run is open waits for its end and fires once.
- request: a person's; nothing makes it wait.

On failure: a record that cannot be (an approval that comes twice, a spec that is none) raises before any
state changed, and becomes a dead letter.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from ....schemas.base import Sha256, first_reason
from ....schemas.control import ApprovalControl, RequestControl, RunControl, SpecControl
from ....schemas.decisions import Change, Drift, Trigger, TriggerReason
from ....schemas.errors import DecodeError, IllegalTransition, SpecError
from ....schemas.events import Role
from ....schemas.ids import event_id
from ....schemas.runs import TERMINAL
from ....schemas.spec.model import ModelSpec
from ....schemas.spec.schedule import NEVER_MS, next_occurrence_ms
from .trigger_lifecycle import PendingDrift, TriggerRecord

MAX_REMEMBERED = 64  # triggers; the oldest that nobody is at go first
# Of several drifts the change is taken from the first kind here that has one: the error stream dates a
# change to some tens of outcomes, a window of features only to its own length.
DATED_BEST = ("concept", "accuracy", "prediction", "data")

DEFAULT_SPEC = ModelSpec()  # until a spec was applied
DEFAULT_DIGEST = DEFAULT_SPEC.digest()

_DIGEST: TypeAdapter[str] = TypeAdapter(Sha256)


class Policy:
    """State of one model. ``now_ms`` is given to each call and never goes back."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.spec = DEFAULT_SPEC
        self._digest = DEFAULT_DIGEST
        self._champion = 0
        self._retired = False
        self._pending: dict[str, PendingDrift] = {}
        self._triggers: dict[str, TriggerRecord] = {}
        self._fired = 0
        self._last_fired_ms: int | None = None
        self._outcomes = 0
        self._next_ms: int | None = None  # the schedule's; None until a first `now` is known
        self._due_ms: int | None = None

    # --- what happened -----------------------------------------------------------------------------------

    def on_spec(self, control: SpecControl) -> None:
        """Raises DecodeError when the spec is none."""
        try:
            spec = ModelSpec.model_validate(control.spec)
            digest = _DIGEST.validate_python(control.digest)
            if spec.triggers.schedule is not None:
                next_occurrence_ms(spec.triggers.schedule, control.ts)
        except ValidationError as error:
            raise DecodeError(first_reason("SpecControl", error)) from error
        except SpecError as error:
            raise DecodeError(f"SpecControl: {error}") from error
        if spec.triggers.schedule != self.spec.triggers.schedule:
            self._next_ms = self._due_ms = None
        self.spec, self._digest = spec, digest

    def on_champion(self, version: int, now_ms: int) -> list[Trigger]:
        """``version`` is live (0: none is). What older versions were to be retrained for is moot: pending
        triggers are sent again, denied."""
        self._pass_schedule(now_ms)  # what struck before there was a champion is not due for the new one
        self._retired = version == 0
        if version == self._champion:
            return []
        self._champion = version
        self._pending.clear()
        self._outcomes = 0
        pending = [record for record in self._triggers.values() if record.state == "pending"]
        return [self._withdraw(record, now_ms, f"version {version} is live now") for record in pending]

    def on_drift(self, drift: Drift, condition: str) -> None:
        if drift.severity == "alarm" and drift.role == "champion" and drift.version == self._champion > 0:
            self._pending[condition] = PendingDrift(
                drift.drift_id, drift.version, drift.kind, condition, drift.estimated_change
            )

    def on_outcomes(self, role: Role, count: int) -> None:
        if role == "champion":
            self._outcomes += count

    def on_request(self, control: RequestControl, now_ms: int) -> list[Trigger]:
        """A trigger at once, unless the same command already gave one."""
        trigger_id = event_id("trigger", self.model, "manual", control.command_id)
        if trigger_id in self._triggers:
            return []
        approval = "approved" if self.spec.triggers.approval == "needed" else "automatic"
        trigger = self._trigger(trigger_id, "manual", now_ms).model_copy(
            update={
                "estimated_change": control.change,
                "approval": approval,
                "by": control.by,
                "why": control.why,
            }
        )
        self._fired_at(now_ms)
        self._remember(TriggerRecord(trigger, "open", now_ms))
        return [trigger]

    def on_approval(self, control: ApprovalControl, now_ms: int) -> list[Trigger]:
        """Return the trigger, approved or denied. Raises IllegalTransition when it was not pending."""
        record = self._known(control.trigger_id)
        moved = record.moved("approve" if control.approved else "deny", now_ms)
        verdict = "approved" if control.approved else "denied"
        trigger = record.trigger.model_copy(
            update={"approval": verdict, "by": control.by, "why": control.why, "ts": now_ms}
        )
        self._remember(TriggerRecord(trigger, moved.state, now_ms, record.drifts))
        return [trigger]

    def on_run(self, control: RunControl, now_ms: int) -> bool:
        """True when the champion was judged and nothing better was found. Raises IllegalTransition."""
        record = self._known(control.trigger_id)
        if control.status not in TERMINAL:
            return False
        if not control.last_stage and control.status in ("rejected", "failed"):
            return False  # a follow-up with more labels comes
        was_open = record.state == "open"
        self._remember(record.moved("end", now_ms))
        if not was_open:
            return False
        if control.status == "promoted":
            self._pending.clear()
        elif control.status == "failed":  # nothing was judged: try again after the cooldown, if it lasts
            for drift in record.drifts:
                self._pending.setdefault(drift.condition, drift)
        return control.status == "rejected" and record.trigger.version == self._champion

    # --- what follows ------------------------------------------------------------------------------------

    def decide(self, now_ms: int, alarmed: frozenset[str]) -> list[Trigger]:
        """At most one new trigger. ``alarmed``: the champion's conditions that hold now."""
        return self._pass_time(now_ms) + self._next(now_ms, alarmed)

    def _next(self, now_ms: int, alarmed: frozenset[str]) -> list[Trigger]:
        self._pending = {
            name: drift
            for name, drift in self._pending.items()
            if name in alarmed and drift.version == self._champion
        }
        if any(record.busy for record in self._triggers.values()):
            return []
        rules = self.spec.triggers
        drifts = tuple(drift for drift in self._pending.values() if drift.kind in rules.on)
        if drifts and now_ms >= self._cooled_ms():
            return self._fire("drift", now_ms, drifts)
        if self._champion == 0:
            if not self._retired and self._outcomes >= rules.first_labels:
                return self._fire("volume", now_ms)
            return []
        if rules.volume is not None and self._outcomes >= rules.volume:
            return self._fire("volume", now_ms)
        if self._due_ms is not None:
            return self._fire("schedule", now_ms)
        return []

    def wake_ms(self) -> int:
        """When time alone may change what ``decide`` says."""
        rules = self.spec.triggers
        busy = [record.since_ms for record in self._triggers.values() if record.busy]
        times = [since_ms + self._patience_ms() for since_ms in busy]
        if not busy and any(drift.kind in rules.on for drift in self._pending.values()):
            times.append(self._cooled_ms())
        if rules.schedule is not None and self._champion:
            times.append(0 if self._next_ms is None else self._next_ms)
        return min(times, default=NEVER_MS)

    def _pass_time(self, now_ms: int) -> list[Trigger]:
        withdrawn: list[Trigger] = []
        for record in list(self._triggers.values()):
            if record.busy and now_ms >= record.since_ms + self._patience_ms():
                if record.state == "pending":
                    withdrawn.append(self._withdraw(record, now_ms, "nobody decided in time"))
                else:
                    self._remember(record.moved("end", now_ms))
        self._pass_schedule(now_ms)
        return withdrawn

    def _pass_schedule(self, now_ms: int) -> None:
        schedule = self.spec.triggers.schedule
        if schedule is None or now_ms == 0:
            return
        if self._next_ms is not None and now_ms >= self._next_ms and self._champion:
            self._due_ms = self._next_ms
        if self._next_ms is None or now_ms >= self._next_ms:
            self._next_ms = next_occurrence_ms(schedule, now_ms)

    def _withdraw(self, record: TriggerRecord, now_ms: int, why: str) -> Trigger:
        moved = record.moved("withdraw", now_ms)
        trigger = record.trigger.model_copy(
            update={"approval": "denied", "by": "policy", "why": why, "ts": now_ms}
        )
        self._remember(TriggerRecord(trigger, moved.state, now_ms))
        return trigger

    def _patience_ms(self) -> int:
        """Longer than all stages of a run may take; then the policy no longer waits for word of it."""
        window = self.spec.window
        return (1 + len(window.follow_ups)) * (window.max_wait + window.time_limit)

    def _cooled_ms(self) -> int:
        return 0 if self._last_fired_ms is None else self._last_fired_ms + self.spec.triggers.cooldown

    def _fire(
        self, reason: TriggerReason, now_ms: int, drifts: tuple[PendingDrift, ...] = ()
    ) -> list[Trigger]:
        causes: tuple[str | int, ...] = tuple(drift.drift_id for drift in drifts)
        if reason == "schedule":
            causes = (self._due_ms or 0,)
        trigger_id = event_id("trigger", self.model, self._champion, reason, self._fired, *causes)
        needed = self.spec.triggers.approval == "needed"
        trigger = self._trigger(trigger_id, reason, now_ms).model_copy(
            update={
                "drifts": tuple(drift.drift_id for drift in drifts),
                "estimated_change": best_dated(drifts),
                "approval": "pending" if needed else "automatic",
            }
        )
        self._fired_at(now_ms)
        if reason == "volume":
            self._outcomes = 0
        if reason == "schedule":
            self._due_ms = None
        for drift in drifts:
            del self._pending[drift.condition]
        self._remember(TriggerRecord(trigger, "pending" if needed else "open", now_ms, drifts))
        return [trigger]

    def _trigger(self, trigger_id: str, reason: TriggerReason, now_ms: int) -> Trigger:
        return Trigger(
            trigger_id=trigger_id,
            model=self.model,
            version=self._champion,
            reason=reason,
            ts=now_ms,
            spec_digest=self._digest,
        )

    def _fired_at(self, now_ms: int) -> None:
        self._fired += 1
        self._last_fired_ms = now_ms

    def _known(self, trigger_id: str) -> TriggerRecord:
        record = self._triggers.get(trigger_id)
        if record is None:
            raise IllegalTransition(f"{self.model} has no trigger {trigger_id} (or it was long ago)")
        return record

    def _remember(self, record: TriggerRecord) -> None:
        self._triggers[record.trigger.trigger_id] = record
        if len(self._triggers) > MAX_REMEMBERED:
            idle = (name for name, known in self._triggers.items() if not known.busy)
            self._triggers.pop(next(idle, ""), None)

    # --- snapshots ---------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(mode="json"),
            "digest": self._digest,
            "champion": self._champion,
            "retired": self._retired,
            "pending": [drift.dump() for drift in self._pending.values()],
            "triggers": [record.dump() for record in self._triggers.values()],
            "fired": self._fired,
            "last_fired_ms": self._last_fired_ms,
            "outcomes": self._outcomes,
            "next_ms": self._next_ms,
            "due_ms": self._due_ms,
        }

    @classmethod
    def load(cls, model: str, state: dict[str, Any]) -> Self:
        policy = cls(model)
        policy.spec = ModelSpec.model_validate(state["spec"])
        policy._digest = state["digest"]
        policy._champion = int(state["champion"])
        policy._retired = bool(state["retired"])
        pending = [PendingDrift.load(drift) for drift in state["pending"]]
        policy._pending = {drift.condition: drift for drift in pending}
        records = [TriggerRecord.load(record) for record in state["triggers"]]
        policy._triggers = {record.trigger.trigger_id: record for record in records}
        policy._fired = int(state["fired"])
        policy._last_fired_ms = state["last_fired_ms"]
        policy._outcomes = int(state["outcomes"])
        policy._next_ms = state["next_ms"]
        policy._due_ms = state["due_ms"]
        return policy


def best_dated(drifts: tuple[PendingDrift, ...]) -> Change | None:
    """One estimate for drifts that concur: of the kind that dates best, the latest in the world's time.

    The latest, because rows from before the change teach the old concept, while rows lost after it only
    delay.
    """
    for kind in DATED_BEST:
        changes = [drift.change for drift in drifts if drift.kind == kind and drift.change is not None]
        if changes:
            return max(changes, key=lambda change: change.ts)
    return None
