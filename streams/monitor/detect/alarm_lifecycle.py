"""The life of an alarm, as a table: why one lasting condition gives one alarm and not a storm.

    quiet ──fire──▶ suspected ──confirm──▶ alarmed ──acknowledge──▶ acknowledged
      ▲                │  expire              │ recover                 │ recover: quiet; fire: suspected;
      └────────────────┴──────────────────────┘◀────────────────────────┘ confirm: alarmed again

``fire``: a detector fired, on evidence that may be chance; ``confirm``: the evidence is enough; ``expire``:
it did not become so in time; ``recover``: the condition is over; ``acknowledge``: a candidate was trained
for it and was no better, so the alarm stays silent until the condition gets worse. A new version starts with
quiet alarms of its own.
"""

from __future__ import annotations

from typing import Literal

from ....schemas.errors import IllegalTransition
from ..state import State

AlertState = Literal["quiet", "suspected", "alarmed", "acknowledged"]
AlertInput = Literal["fire", "confirm", "expire", "recover", "acknowledge"]

TRANSITIONS: dict[tuple[AlertState, AlertInput], AlertState] = {
    ("quiet", "fire"): "suspected",
    ("quiet", "confirm"): "alarmed",
    ("suspected", "confirm"): "alarmed",
    ("suspected", "expire"): "quiet",
    ("alarmed", "recover"): "quiet",
    ("alarmed", "acknowledge"): "acknowledged",
    ("acknowledged", "fire"): "suspected",
    ("acknowledged", "confirm"): "alarmed",
    ("acknowledged", "recover"): "quiet",
}

LASTING: frozenset[AlertState] = frozenset(state for state, cause in TRANSITIONS if cause == "recover")
"""The condition was confirmed and is not over."""

SILENT: frozenset[AlertState] = frozenset(state for state, cause in TRANSITIONS if cause == "fire")
"""Nothing is suspected or alarmed: the next firing counts."""


class Alert(State):
    """Where one detector stands on one subject.

    ``index``: outcome index at the last move; ``since``: where the suspected change may have begun;
    ``level``: what the condition measured when it was confirmed or acknowledged; ``recovery``: at or below
    it, the condition is over.
    """

    state: AlertState = "quiet"
    index: int = 0
    since: int = 0
    level: float = 0.0
    recovery: float = 0.0

    def move(self, cause: AlertInput, index: int) -> None:
        """Raise IllegalTransition for a move the table does not have."""
        try:
            self.state = TRANSITIONS[self.state, cause]
        except KeyError as error:
            raise IllegalTransition(f"an alarm that is {self.state} cannot {cause}") from error
        self.index = index
