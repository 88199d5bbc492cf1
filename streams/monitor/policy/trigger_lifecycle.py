"""The life of a trigger, as a table.

    pending ──approve──▶ open ──end──▶ closed
       │ deny: denied
       │ withdraw: withdrawn

A trigger that needs no approval starts as ``open``. ``withdraw``: the version is no longer the champion, or
nobody decided in time. ``end``: the last run ended, or a version of it went live, or the trainer was silent
for longer than a run may take; trainer and policy learn of a new champion at different moments, so it may
come in any state.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ....schemas.decisions import Approval, Change, DriftKind, Trigger
from ....schemas.errors import IllegalTransition

TriggerState = Literal["pending", "open", "closed", "denied", "withdrawn"]
Decision = Literal["approve", "deny", "withdraw"]
TriggerInput = Literal[Decision, "end"]

TRANSITIONS: dict[tuple[TriggerState, TriggerInput], TriggerState] = {
    ("pending", "approve"): "open",
    ("pending", "deny"): "denied",
    ("pending", "withdraw"): "withdrawn",
    ("open", "end"): "closed",
    ("pending", "end"): "closed",
    ("closed", "end"): "closed",
    ("denied", "end"): "denied",
    ("withdrawn", "end"): "withdrawn",
}

ACTIVE: frozenset[TriggerState] = frozenset(start for (start, _), end in TRANSITIONS.items() if start != end)
"""A person or the trainer has still to do something."""

APPROVALS: dict[Decision, Approval] = {"approve": "approved", "deny": "denied", "withdraw": "denied"}
"""What a decision is called in the trigger's event."""


class PendingDrift(Struct, array_like=True, frozen=True):
    """A drift that may lead to a trigger while its condition lasts."""

    drift_id: str
    version: int
    kind: DriftKind
    condition: str
    change: Change | None


class TriggerRecord(Struct, array_like=True, frozen=True):
    """A trigger with its state. ``since_ms``: when it came into that state."""

    trigger: Trigger
    state: TriggerState
    since_ms: int
    drifts: tuple[PendingDrift, ...] = ()

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    def moved(self, cause: TriggerInput, now_ms: int) -> TriggerRecord:
        """Raise IllegalTransition for a move the table does not have."""
        try:
            return replace(self, state=TRANSITIONS[self.state, cause], since_ms=now_ms)
        except KeyError as error:
            raise IllegalTransition(
                f"trigger {self.trigger.trigger_id} is {self.state}: {cause} comes too late or twice"
            ) from error

    def decided(self, decision: Decision, now_ms: int, *, by: str, why: str) -> TriggerRecord:
        """Move, and say in the trigger who decided what. Raises IllegalTransition."""
        trigger = self.trigger.model_copy(
            update={"approval": APPROVALS[decision], "by": by, "why": why, "ts": now_ms}
        )
        return replace(self.moved(decision, now_ms), trigger=trigger)
