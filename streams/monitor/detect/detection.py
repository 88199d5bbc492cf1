"""What a detector found, before the monitor makes an event of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....schemas.decisions import Change, DriftKind, Severity


@dataclass(frozen=True, slots=True)
class Detection:
    """The fields of a Drift that a detector knows. ``evidence`` holds the numbers that a person can check."""

    kind: DriftKind
    detector: str
    subject: str
    value: float
    threshold: float
    evidence: dict[str, Any]
    severity: Severity = "alarm"
    change: Change | None = None


def condition(detector: str, subject: str) -> str:
    """Return the name of the alarm that a detector may raise on a subject."""
    return f"{detector}/{subject}"
