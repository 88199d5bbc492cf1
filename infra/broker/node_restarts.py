"""When the nodes of a cluster are started again, and when to give up.

A node that is beyond help is still tried, since the others serve. Only when so many are beyond help at once
that the rest is no majority, nothing can serve any more, and the cluster must end.
"""

from __future__ import annotations

from ..restarts import Restarts

HOPELESS = 5  # failures in a row, each of a young node


class NodeRestarts:
    """Of one cluster with ``nodes`` nodes, by their numbers from 1. Times in seconds of one clock."""

    def __init__(self, nodes: int, now: float) -> None:
        self._nodes = {number: Restarts(now) for number in range(1, nodes + 1)}

    def __getitem__(self, number: int) -> Restarts:
        return self._nodes[number]

    def hopeless(self, now: float) -> list[int]:
        """The nodes that keep ending, if without them no majority is left; else none."""
        lost = [n for n, node in self._nodes.items() if node.failures >= HOPELESS and not node.serves(now)]
        majority = len(self._nodes) // 2 + 1
        return lost if len(self._nodes) - len(lost) < majority else []
