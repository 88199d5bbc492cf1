"""What a run came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.findings import RunFindings


@dataclass
class SimulatedRun:
    """``outcomes``: records that the role has written. ``lines``: all that happened, if it was asked for."""

    seed: int
    findings: RunFindings
    fingerprint: str
    seconds: float
    outcomes: int
    faults: Counter[str] = field(default_factory=Counter[str])
    lines: list[str] = field(default_factory=list[str])
