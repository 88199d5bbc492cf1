"""When nodes of the embedded broker end for good, the cluster ends."""

from __future__ import annotations

import pytest
from driftloop.infra.broker.node_restarts import HOPELESS, NodeRestarts
from driftloop.infra.restarts import YOUNG_S

from tests.support.restarts import die_young


@pytest.mark.parametrize(
    ("nodes", "beyond_help", "ends"),
    [
        (1, [1], True),
        (2, [1], True),
        (3, [2], False),
        (3, [1, 3], True),
        (5, [1, 2], False),
        (5, [1, 2, 3], True),
    ],
)
def test_only_without_a_majority_the_cluster_ends(nodes: int, beyond_help: list[int], ends: bool) -> None:
    restarts = NodeRestarts(nodes, 0.0)
    for number in beyond_help:
        die_young(restarts[number], HOPELESS - 1, 0.0)
    assert restarts.hopeless(YOUNG_S) == []
    for number in beyond_help:
        assert restarts[number].ended(YOUNG_S) is not None
    assert restarts.hopeless(YOUNG_S) == (beyond_help if ends else [])


def test_a_node_that_runs_again_does_not_count_against_the_majority_later() -> None:
    restarts = NodeRestarts(3, 0.0)
    die_young(restarts[1], HOPELESS, 0.0)
    now = 10_000.0
    restarts[2].started(now)
    die_young(restarts[2], HOPELESS, now)
    assert restarts.hopeless(now) == []  # node 1 has served for hours
    restarts[1].started(now)
    assert restarts[1].ended(now) is not None
    assert restarts.hopeless(now) == [1, 2]
