"""The chaos schedule: which fault strikes whom, after how long, and for how long. A function of the seed.

Times are relative and drawn in advance; when a fault really struck is in ``faults.jsonl``, because some have
to wait: no broker is struck before every replica is in sync again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

# Faults by weight; a deck of them is shuffled and dealt out again and again, so that every kind comes.
DECK: dict[str, int] = {
    "kill-join": 10,
    "wipe-join": 4,  # killed, and its local state deleted
    "stop-join": 3,  # SIGSTOP past its session
    "fence-join": 3,  # somebody else initialises its transactional.id: its open transaction is aborted
    "add-join": 3,  # a third joiner comes, and goes again by SIGTERM or kill -9
    "kill-monitor": 7,
    "stop-monitor": 3,
    "kill-train": 5,
    "stop-train": 2,
    "fence-train": 2,
    "kill-serve": 5,
    "stop-serve": 2,
    "kill-broker": 6,
    "stop-broker": 2,
    "aborts": 3,  # aborted transactions full of nonsense in outcomes, vitals and predictions
}
# The first ones of every run, so that a short run meets what matters most.
FIRST = ("kill-join", "kill-broker", "kill-monitor")

_STOPPED_S = (8.0, 12.0)  # sessions are 6 s, a monitor's 10 s
_TARGETS = {"join": 2, "monitor": 2, "train": 1, "serve": 2, "broker": 3}


@dataclass(frozen=True, slots=True)
class Fault:
    """``gap_s``: after the one before. ``hold_s``: until the victim is started (or goes on) again."""

    number: int
    kind: str
    target: int
    gap_s: float
    hold_s: float

    @property
    def action(self) -> str:
        return self.kind.split("-")[0]

    @property
    def role(self) -> str:
        return self.kind.partition("-")[2] or "cluster"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def make_plan(seed: int, faults: int, seconds: float, first: Sequence[str] = FIRST) -> tuple[Fault, ...]:
    """So many faults, spread over about so many seconds."""
    chance = random.Random(seed)
    deck = [kind for kind, weight in DECK.items() for _ in range(weight)]
    kinds = list(first)
    while len(kinds) < faults:
        chance.shuffle(deck)
        kinds += deck
    mean_s = seconds / max(faults, 1)
    return tuple(_fault(chance, number, kind, mean_s) for number, kind in enumerate(kinds[:faults]))


def _fault(chance: random.Random, number: int, kind: str, mean_s: float) -> Fault:
    action, _, role = kind.partition("-")
    gap_s = chance.uniform(0.5, 1.5) * mean_s
    hold_s = 0.0
    if action == "stop":
        hold_s = chance.uniform(*_STOPPED_S) if role != "serve" else chance.uniform(1.0, 4.0)
    elif action == "add":
        hold_s = chance.uniform(10.0, 20.0)
    elif action in ("kill", "wipe") and chance.random() < 0.4:
        # Long enough that the group gives the dead member's partitions to the other one.
        hold_s = chance.uniform(7.0, 12.0) if role != "broker" else chance.uniform(2.0, 8.0)
    return Fault(number, kind, chance.randrange(_TARGETS.get(role, 1)), round(gap_s, 3), round(hold_s, 3))
