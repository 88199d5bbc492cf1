"""When a child process that has ended by itself is started again: decisions, no processes.

It is started again after a second. While it keeps ending young the pause doubles, up to 30 s: what is broken
does not loop fast and is still tried. Once it has run for a minute it counts as well again.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
YOUNG_S = 60.0


@dataclass(slots=True)
class Restarts:
    """Of one child. Times in seconds of one clock; ``failures``: how often in a row it has ended young."""

    started_at: float
    failures: int = 0
    restart_at: float | None = None

    def ended(self, now: float) -> float | None:
        """It has ended or could not be started; return the pause, None if that was noted before."""
        if self.restart_at is not None:
            return None
        self.failures = self.failures + 1 if self._is_young(now) else 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.failures - 1))
        self.restart_at = now + pause_s
        return pause_s

    def due(self, now: float) -> bool:
        """Whether it has ended and is to be started now."""
        return self.restart_at is not None and now >= self.restart_at

    def started(self, now: float) -> None:
        """It is being started."""
        self.started_at, self.restart_at = now, None

    def serves(self, now: float) -> bool:
        """Whether it runs and is no longer young."""
        return self.restart_at is None and not self._is_young(now)

    def _is_young(self, now: float) -> bool:
        return now - self.started_at < YOUNG_S


def shown_exit(code: int) -> str:
    """How a process ended, for a person."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
