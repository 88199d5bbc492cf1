"""When a child that has ended is started again."""

from __future__ import annotations

from driftloop.infra.restarts import LONGEST_PAUSE_S, Restarts

from tests.support.restarts import die_young


def test_a_child_that_keeps_ending_is_tried_less_and_less_often() -> None:
    assert die_young(Restarts(0.0), 9, 0.0) == [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE_S] * 4]


def test_a_child_that_has_run_for_long_begins_with_the_short_pause() -> None:
    restarts = Restarts(0.0)
    die_young(restarts, 3, 0.0)
    assert restarts.ended(1_000.0) == 1.0


def test_an_end_is_noted_once() -> None:
    restarts = Restarts(0.0)
    assert restarts.ended(10.0) == 1.0
    assert restarts.ended(10.2) is None
    assert not restarts.due(10.9)
    assert restarts.due(11.0)
