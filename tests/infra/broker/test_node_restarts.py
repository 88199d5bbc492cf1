"""When a node of the embedded broker is started again, and when the cluster ends."""

from __future__ import annotations

import pytest
from driftloop.infra.broker.node_restarts import HOPELESS, LONGEST_PAUSE_S, YOUNG_S, NodeRestarts


def die_young(restarts: NodeRestarts, number: int, times: int, now: float) -> list[float]:
    pauses: list[float] = []
    for _ in range(times):
        pause_s = restarts.ended(number, now)
        assert pause_s is not None
        pauses.append(pause_s)
        now += pause_s
        assert restarts.due(number, now)
        restarts.started(number, now)
    return pauses


def test_a_node_that_keeps_ending_is_tried_less_and_less_often() -> None:
    pauses = die_young(NodeRestarts(3, 0.0), 2, 9, 0.0)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[LONGEST_PAUSE_S] * 3]


def test_a_node_that_has_served_for_long_begins_with_the_short_pause() -> None:
    restarts = NodeRestarts(1, 0.0)
    die_young(restarts, 1, 3, 0.0)
    assert restarts.ended(1, 1_000.0) == 1.0


def test_an_end_is_noted_once() -> None:
    restarts = NodeRestarts(3, 0.0)
    assert restarts.ended(3, 10.0) == 1.0
    assert restarts.ended(3, 10.2) is None
    assert not restarts.due(3, 10.9)
    assert restarts.due(3, 11.0)


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
        die_young(restarts, number, HOPELESS - 1, 0.0)
    assert restarts.hopeless(YOUNG_S) == []
    for number in beyond_help:
        assert restarts.ended(number, YOUNG_S) is not None
    assert restarts.hopeless(YOUNG_S) == (beyond_help if ends else [])


def test_a_node_that_runs_again_does_not_count_against_the_majority_later() -> None:
    restarts = NodeRestarts(3, 0.0)
    die_young(restarts, 1, HOPELESS, 0.0)
    now = 10_000.0
    restarts.started(2, now)
    die_young(restarts, 2, HOPELESS, now)
    assert restarts.hopeless(now) == []  # node 1 has served for hours
    restarts.started(1, now)
    assert restarts.ended(1, now) is not None
    assert restarts.hopeless(now) == [1, 2]
