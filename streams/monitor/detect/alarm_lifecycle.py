"""The life of an alarm, as a table: why one lasting condition gives one alarm and not a storm.

    quiet ──fire──▶ suspected ──confirm──▶ alarmed ──judged──▶ accepted
      ▲                │  expire              │ recover            │ recover: quiet; confirm: alarmed again
      └────────────────┴──────────────────────┘◀───────────────────┘

``fire``: a detector fired, on evidence that may be chance; ``confirm``: the evidence is enough; ``expire``:
it did not become so in time; ``recover``: the condition is over; ``judged``: a candidate was trained for it
and was no better, so the condition is lived with until it gets worse. A new version starts with quiet
alarms of its own.
"""

from __future__ import annotations

from typing import Any, Literal, Self, cast

from ....schemas.errors import IllegalTransition

AlertState = Literal["quiet", "suspected", "alarmed", "accepted"]
AlertInput = Literal["fire", "confirm", "expire", "recover", "judged"]

TRANSITIONS: dict[tuple[AlertState, AlertInput], AlertState] = {
    ("quiet", "fire"): "suspected",
    ("quiet", "confirm"): "alarmed",
    ("suspected", "fire"): "suspected",
    ("suspected", "confirm"): "alarmed",
    ("suspected", "expire"): "quiet",
    ("alarmed", "recover"): "quiet",
    ("alarmed", "judged"): "accepted",
    ("accepted", "fire"): "suspected",
    ("accepted", "confirm"): "alarmed",
    ("accepted", "recover"): "quiet",
}


class Alert:
    """Where one detector stands on one subject.

    ``index``: outcome index at the last move; ``since``: where the suspected change may have begun;
    ``level``: what the condition measured when it was confirmed or accepted; ``recovery``: at or below it,
    the condition is over.
    """

    def __init__(self) -> None:
        self.state: AlertState = "quiet"
        self.index = 0
        self.since = 0
        self.level = 0.0
        self.recovery = 0.0

    def move(self, cause: AlertInput, index: int) -> None:
        """Raises IllegalTransition for a move the table does not have."""
        try:
            self.state = TRANSITIONS[self.state, cause]
        except KeyError as error:
            raise IllegalTransition(f"an alarm that is {self.state} cannot {cause}") from error
        self.index = index

    def dump(self) -> list[Any]:
        return [self.state, self.index, self.since, self.level, self.recovery]

    @classmethod
    def load(cls, state: list[Any]) -> Self:
        alert = cls()
        alert.state = cast("AlertState", state[0])
        alert.index, alert.since = int(state[1]), int(state[2])
        alert.level, alert.recovery = float(state[3]), float(state[4])
        return alert
