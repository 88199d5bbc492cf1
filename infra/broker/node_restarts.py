"""When to start a node again that has ended by itself, and when to give up: decisions, no processes.

A node is started again after a second. While it keeps ending young the pause doubles, up to a minute; one
that is beyond help is still tried, since the others serve; once it has run for a minute it counts as well
again. Only when so many nodes are beyond help at once that the rest is no majority, nothing can serve any
more, and the cluster must end.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
YOUNG_S = 60.0
HOPELESS = 5  # failures in a row, each of a young node


@dataclass(slots=True)
class _NodeState:
    started_at: float
    failures: int = 0
    restart_at: float | None = None


class NodeRestarts:
    """Of one cluster with ``nodes`` nodes, numbered from 1. Times in seconds of one clock."""

    def __init__(self, nodes: int, now: float) -> None:
        self._nodes = {number: _NodeState(now) for number in range(1, nodes + 1)}

    def ended(self, number: int, now: float) -> float | None:
        """A node has ended or could not be started; return the pause, None if it was noted before."""
        node = self._nodes[number]
        if node.restart_at is not None:
            return None
        young = now - node.started_at < YOUNG_S
        node.failures = node.failures + 1 if young else 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (node.failures - 1))
        node.restart_at = now + pause_s
        return pause_s

    def due(self, number: int, now: float) -> bool:
        """Whether an ended node is to be started now."""
        restart_at = self._nodes[number].restart_at
        return restart_at is not None and now >= restart_at

    def started(self, number: int, now: float) -> None:
        """A node is being started."""
        node = self._nodes[number]
        node.started_at, node.restart_at = now, None

    def hopeless(self, now: float) -> list[int]:
        """The nodes that keep ending, if without them no majority is left; else none."""
        lost = [
            number
            for number, node in self._nodes.items()
            if node.failures >= HOPELESS and (node.restart_at is not None or now - node.started_at < YOUNG_S)
        ]
        majority = len(self._nodes) // 2 + 1
        return lost if len(self._nodes) - len(lost) < majority else []
