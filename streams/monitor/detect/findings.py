"""What a detector found, before the monitor makes an event of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ....schemas.decisions import Change, DriftKind, Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """The fields of a Drift that a detector knows. ``evidence`` holds the numbers that a person can check."""

    kind: DriftKind
    detector: str
    subject: str
    severity: Severity
    value: float
    threshold: float
    change: Change | None = None
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def condition(self) -> str:
        """Which alarm this is about; a lasting one can be asked for by this name."""
        return condition(self.detector, self.subject)


def condition(detector: str, subject: str) -> str:
    return f"{detector}/{subject}"
