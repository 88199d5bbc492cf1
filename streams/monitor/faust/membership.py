"""Whether the group still takes this member's commits: a pause after each refusal, and an end.

aiokafka joins its group again after a refusal, by itself. Where it does not, each commit is refused for ever
while nothing else shows it, so the process has to end and be started again.
"""

from __future__ import annotations

PAUSE_S = 2.0
LOST_S = 60.0  # longer than a rebalance may take
APART_S = 30.0  # refusals further apart tell nothing of the time between: there was nothing to commit


class CommitRefusals:
    """Times in seconds of one clock."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0

    def may_commit(self, now: float) -> bool:
        return self._since is None or now - self._last >= PAUSE_S

    def accepted(self) -> None:
        self._since = None

    def refused(self, now: float) -> bool:
        """Note a refusal; return whether membership is lost for good."""
        if self._since is None or now - self._last > APART_S:
            self._since = now
        self._last = now
        return now - self._since >= LOST_S
