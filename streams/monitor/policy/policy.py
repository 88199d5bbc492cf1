"""The policy of one model: drift, a schedule, a volume of labels or a person's request becomes a trigger.

- drift: an alarm of the champion whose kind the spec names. Kept while it must wait (for the cooldown, or
  for an open run), it fires afterwards if its condition still holds and the version is still the champion.
- volume: every N outcomes of the champion; while there is no champion, the first N labels ask for version 1.
- schedule: cron, in UTC. One that comes due while a run is open waits for its end and fires once.
- request: a person's; nothing makes it wait.

On failure: an impossible record (an approval that comes twice, an invalid spec) raises before any state
changed, and becomes a dead letter.
"""

from __future__ import annotations

from typing import Any

from msgspec import field
from pydantic import TypeAdapter, ValidationError

from ....schemas.base import Sha256
from ....schemas.control import ApprovalControl, RequestControl, RunControl, SpecControl
from ....schemas.decisions import Change, Drift, Trigger, TriggerReason
from ....schemas.errors import DecodeError, IllegalTransition, SpecError
from ....schemas.events import Role
from ....schemas.ids import event_id
from ....schemas.reasons.validation import first_reason
from ....schemas.runs import TERMINAL
from ....schemas.spec.model import ModelSpec
from ....schemas.spec.schedule import NEVER_MS, next_occurrence_ms
from ..detect.detection import condition
from ..state import State
from .trigger_lifecycle import PendingDrift, TriggerRecord

MAX_REMEMBERED = 64  # triggers; the oldest inactive ones go first
# Of several drifts the change is taken from the first kind here that has one: the error stream dates a
# change to some tens of outcomes, a window of features only to its own length.
DATED_BEST = ("concept", "accuracy", "prediction", "data")

DEFAULT_SPEC = ModelSpec()  # until a spec was applied
DEFAULT_DIGEST = DEFAULT_SPEC.digest()

_DIGEST: TypeAdapter[str] = TypeAdapter(Sha256)


class Policy(State):
    """State of one model. ``now_ms`` is given to each call and never goes back."""

    model: str
    spec: ModelSpec = DEFAULT_SPEC
    digest: str = DEFAULT_DIGEST
    champion: int = 0
    retired: bool = False
    pending: dict[str, PendingDrift] = field(default_factory=dict[str, PendingDrift])
    """By condition."""
    triggers: dict[str, TriggerRecord] = field(default_factory=dict[str, TriggerRecord])
    """By trigger id, the oldest first."""
    fired: int = 0
    last_fired_ms: int | None = None
    outcomes: int = 0
    """Of the champion since it went live or a volume fired."""
    next_ms: int | None = None
    """When the schedule strikes next; None until a first ``now_ms`` is known."""
    due_ms: int | None = None
    """When the schedule struck, if it has not fired yet."""

    # --- what happened -----------------------------------------------------------------------------------

    def on_spec(self, control: SpecControl) -> None:
        """Raise DecodeError when the spec is invalid."""
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
            self.next_ms = self.due_ms = None
        self.spec, self.digest = spec, digest

    def on_champion(self, version: int, now_ms: int) -> list[Trigger]:
        """``version`` is live (0: none). Return older versions' pending triggers, withdrawn."""
        self._pass_schedule(now_ms)  # what struck before there was a champion is not due for the new one
        self.retired = version == 0
        if version == self.champion:
            return []
        self.champion = version
        self.pending.clear()
        self.outcomes = 0
        pending = [record for record in self.triggers.values() if record.state == "pending"]
        return [self._withdraw(record, now_ms, f"version {version} is live now") for record in pending]

    def on_drift(self, drift: Drift) -> None:
        if drift.severity == "alarm" and drift.role == "champion" and drift.version == self.champion > 0:
            name = condition(drift.detector, drift.subject)
            self.pending[name] = PendingDrift(
                drift.drift_id, drift.version, drift.kind, name, drift.estimated_change
            )

    def on_outcomes(self, role: Role, count: int) -> None:
        if role == "champion":
            self.outcomes += count

    def on_request(self, control: RequestControl, now_ms: int) -> list[Trigger]:
        """Return a trigger at once, unless the same command already led to one."""
        trigger_id = event_id("trigger", self.model, "manual", control.command_id)
        if trigger_id in self.triggers:
            return []
        approval = "approved" if self.spec.triggers.approval == "needed" else "automatic"
        said: dict[str, Any] = {"estimated_change": control.change, "by": control.by, "why": control.why}
        return [self._start(trigger_id, "manual", now_ms, approval=approval, **said)]

    def on_approval(self, control: ApprovalControl, now_ms: int) -> list[Trigger]:
        """Return the trigger, approved or denied. Raises IllegalTransition when it was not pending."""
        record = self._known(control.trigger_id)
        decision = "approve" if control.approved else "deny"
        return [self._remember(record.decided(decision, now_ms, by=control.by, why=control.why))]

    def on_run(self, control: RunControl, now_ms: int) -> bool:
        """Return whether a candidate was no better than the champion. Raises IllegalTransition."""
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
            self.pending.clear()
        elif control.status == "failed":  # nothing was evaluated: try again after the cooldown, if it lasts
            for drift in record.drifts:
                self.pending.setdefault(drift.condition, drift)
        return control.status == "rejected" and record.trigger.version == self.champion

    # --- what follows ------------------------------------------------------------------------------------

    def decide(self, now_ms: int, alarmed: frozenset[str]) -> list[Trigger]:
        """Return withdrawn triggers and at most one new one. ``alarmed``: the champion's conditions."""
        return self._pass_time(now_ms) + self._next(now_ms, alarmed)

    def _next(self, now_ms: int, alarmed: frozenset[str]) -> list[Trigger]:
        self.pending = {
            name: drift
            for name, drift in self.pending.items()
            if name in alarmed and drift.version == self.champion
        }
        if any(record.active for record in self.triggers.values()):
            return []
        rules = self.spec.triggers
        drifts = tuple(drift for drift in self.pending.values() if drift.kind in rules.on)
        if drifts and now_ms >= self._cooled_ms():
            return self._fire("drift", now_ms, drifts)
        volume = rules.volume if self.champion else rules.first_labels
        if volume is not None and self.outcomes >= volume and not self.retired:
            return self._fire("volume", now_ms)
        if self.champion and self.due_ms is not None:
            return self._fire("schedule", now_ms)
        return []

    def wake_ms(self) -> int:
        """Return when time alone may change what ``decide`` returns."""
        rules = self.spec.triggers
        active = [record.since_ms for record in self.triggers.values() if record.active]
        times = [since_ms + self._timeout_ms() for since_ms in active]
        if not active and any(drift.kind in rules.on for drift in self.pending.values()):
            times.append(self._cooled_ms())
        if rules.schedule is not None and self.champion:
            times.append(0 if self.next_ms is None else self.next_ms)
        return min(times, default=NEVER_MS)

    def _pass_time(self, now_ms: int) -> list[Trigger]:
        withdrawn: list[Trigger] = []
        for record in list(self.triggers.values()):
            if record.active and now_ms >= record.since_ms + self._timeout_ms():
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
        if self.next_ms is not None and now_ms >= self.next_ms and self.champion:
            self.due_ms = self.next_ms
        if self.next_ms is None or now_ms >= self.next_ms:
            self.next_ms = next_occurrence_ms(schedule, now_ms)

    def _withdraw(self, record: TriggerRecord, now_ms: int, why: str) -> Trigger:
        return self._remember(record.decided("withdraw", now_ms, by="policy", why=why))

    def _timeout_ms(self) -> int:
        """Longer than all stages of a run may take: after that the policy no longer waits for its end."""
        window = self.spec.window
        return (1 + len(window.follow_ups)) * (window.max_wait + window.time_limit)

    def _cooled_ms(self) -> int:
        return 0 if self.last_fired_ms is None else self.last_fired_ms + self.spec.triggers.cooldown

    def _fire(
        self, reason: TriggerReason, now_ms: int, drifts: tuple[PendingDrift, ...] = ()
    ) -> list[Trigger]:
        causes: list[str | int] = [drift.drift_id for drift in drifts]
        if reason == "volume":
            self.outcomes = 0
        if reason == "schedule":
            causes, self.due_ms = [self.due_ms or 0], None
        trigger_id = event_id("trigger", self.model, self.champion, reason, self.fired, *causes)
        for drift in drifts:
            del self.pending[drift.condition]
        approval = "pending" if self.spec.triggers.approval == "needed" else "automatic"
        change = best_dated(drifts)
        return [self._start(trigger_id, reason, now_ms, drifts, estimated_change=change, approval=approval)]

    def _start(
        self,
        trigger_id: str,
        reason: TriggerReason,
        now_ms: int,
        drifts: tuple[PendingDrift, ...] = (),
        **fields: Any,
    ) -> Trigger:
        trigger = Trigger(
            trigger_id=trigger_id,
            model=self.model,
            version=self.champion,
            reason=reason,
            ts=now_ms,
            drifts=tuple(drift.drift_id for drift in drifts),
            spec_digest=self.digest,
            **fields,
        )
        self.fired += 1
        self.last_fired_ms = now_ms
        state = "pending" if trigger.approval == "pending" else "open"
        return self._remember(TriggerRecord(trigger, state, now_ms, drifts))

    def _known(self, trigger_id: str) -> TriggerRecord:
        record = self.triggers.get(trigger_id)
        if record is None:
            raise IllegalTransition(f"{self.model} has no trigger {trigger_id} (or it was long ago)")
        return record

    def _remember(self, record: TriggerRecord) -> Trigger:
        self.triggers[record.trigger.trigger_id] = record
        if len(self.triggers) > MAX_REMEMBERED:
            inactive = (name for name, known in self.triggers.items() if not known.active)
            self.triggers.pop(next(inactive, ""), None)
        return record.trigger


def best_dated(drifts: tuple[PendingDrift, ...]) -> Change | None:
    """Return one estimate for concurrent drifts: of the kind that dates best, the latest in event time.

    The latest, because rows from before the change would train on the old concept, while rows lost after it
    only delay.
    """
    for kind in DATED_BEST:
        changes = [drift.change for drift in drifts if drift.kind == kind and drift.change is not None]
        if changes:
            return max(changes, key=lambda change: change.ts)
    return None
