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
# With a network: every broker is behind one that fails, and so do clocks and disks.
NETWORK_DECK: dict[str, int] = {
    "cut-network": 4,  # every connection is closed
    "deaf-network": 3,  # requests arrive, answers do not
    "mute-network": 3,  # requests do not arrive
    "delay-network": 3,  # each frame waits for 0 to 5 s
    "late-network": 12,  # EndTxn, TxnOffsetCommit or Produce is held, its connection cut, and delivered late
    "stall-network": 3,  # nothing moves for longer than a call may take; then all of it arrives
    "clock-join": 2,  # the wall clock jumps by an hour, and back
    "clock-monitor": 2,
    "clock-train": 1,
    "clock-serve": 1,
    "full": 3,  # the disk with the state of all roles and the artifacts
}
NETWORK_FIRST = ("late-network", "late-network", "late-network", "cut-network", "deaf-network", "kill-join")
LATE_REQUESTS = ("EndTxn", "TxnOffsetCommit", "Produce")
ALL_NODES = 3  # a target of faults of the network: all of the nodes 0 to 2

# The first ones of every run, so that a short run meets what matters most.
FIRST = ("kill-join", "kill-broker", "kill-monitor")

_STOPPED_S = (8.0, 12.0)  # sessions are 6 s, a monitor's 10 s
_STALLED_S = (11.0, 35.0)  # a transaction's call waits 10 s at most for its answer, other requests 30 s
_TARGETS = {"join": 2, "monitor": 2, "train": 1, "serve": 2, "broker": 3, "network": ALL_NODES + 1}


@dataclass(frozen=True, slots=True)
class Fault:
    """``gap_s``: after the one before. ``hold_s``: until the victim is started (or goes on) again."""

    number: int
    kind: str
    target: int
    gap_s: float
    hold_s: float
    request: str = ""  # of late-network: which one is late

    @property
    def action(self) -> str:
        return self.kind.split("-")[0]

    @property
    def role(self) -> str:
        return self.kind.partition("-")[2] or "cluster"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def make_plan(
    seed: int, faults: int, seconds: float, first: Sequence[str] | None = None, *, network: bool = False
) -> tuple[Fault, ...]:
    """So many faults, spread over about so many seconds. ``network``: those of NETWORK_DECK too."""
    chance = random.Random(seed)
    weights = DECK | NETWORK_DECK if network else DECK
    deck = [kind for kind, weight in weights.items() for _ in range(weight)]
    kinds = list(first if first is not None else NETWORK_FIRST if network else FIRST)
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
    elif action == "stall":
        hold_s = chance.uniform(*_STALLED_S)
    elif action in ("deaf", "mute", "delay", "late", "clock", "full"):
        hold_s = chance.uniform(3.0, 12.0)
    elif action == "add":
        hold_s = chance.uniform(10.0, 20.0)
    elif action in ("kill", "wipe") and chance.random() < 0.4:
        # Long enough that the group gives the dead member's partitions to the other one.
        hold_s = chance.uniform(7.0, 12.0) if role != "broker" else chance.uniform(2.0, 8.0)
    target = chance.randrange(_TARGETS.get(role, 1))
    request = LATE_REQUESTS[number % len(LATE_REQUESTS)] if action == "late" else ""
    return Fault(number, kind, target, round(gap_s, 3), round(hold_s, 3), request)
