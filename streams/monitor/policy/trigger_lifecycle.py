"""The life of a trigger, as a table.

    pending ──approve──▶ open ──end──▶ closed
       │ deny: denied
       │ withdraw: withdrawn

``withdraw``: the version is no longer the champion, or nobody decided in time. ``end``: the last run
ended, or a version of it went live, or the trainer was silent for longer than a run may take; trainer and
policy hear of a new champion at different moments, so it may come in any state. A trigger that needs no
approval starts as open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import orjson

from ....schemas.decisions import Change, DriftKind, Trigger
from ....schemas.errors import IllegalTransition

TriggerState = Literal["pending", "open", "closed", "denied", "withdrawn"]
TriggerInput = Literal["approve", "deny", "withdraw", "end"]

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


@dataclass(frozen=True, slots=True)
class PendingDrift:
    """A drift that may lead to a trigger while its condition lasts."""

    drift_id: str
    version: int
    kind: DriftKind
    condition: str
    change: Change | None

    def dump(self) -> list[Any]:
        change = orjson.Fragment(self.change.encode()) if self.change is not None else None
        return [self.drift_id, self.version, self.kind, self.condition, change]

    @classmethod
    def load(cls, state: list[Any]) -> Self:
        change = Change.decode(orjson.dumps(state[4])) if state[4] is not None else None
        return cls(state[0], state[1], state[2], state[3], change)


@dataclass(frozen=True, slots=True)
class TriggerRecord:
    """A trigger with its state. ``since_ms``: when it came into that state."""

    trigger: Trigger
    state: TriggerState
    since_ms: int
    drifts: tuple[PendingDrift, ...] = ()

    @property
    def busy(self) -> bool:
        """Somebody, a person or the trainer, is still at it."""
        return self.state in ("pending", "open")

    def moved(self, cause: TriggerInput, now_ms: int) -> TriggerRecord:
        """Raises IllegalTransition for a move the table does not have."""
        try:
            return replace(self, state=TRANSITIONS[self.state, cause], since_ms=now_ms)
        except KeyError as error:
            raise IllegalTransition(
                f"trigger {self.trigger.trigger_id} is {self.state}: {cause} comes too late or twice"
            ) from error

    def dump(self) -> list[Any]:
        drifts = [drift.dump() for drift in self.drifts]
        return [orjson.Fragment(self.trigger.encode()), self.state, self.since_ms, drifts]

    @classmethod
    def load(cls, state: list[Any]) -> Self:
        drifts = tuple(PendingDrift.load(drift) for drift in state[3])
        return cls(Trigger.decode(orjson.dumps(state[0])), state[1], int(state[2]), drifts)
