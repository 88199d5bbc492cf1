"""What the monitor does when its group refuses its commits."""

from __future__ import annotations

from driftloop.streams.monitor.faust.membership import APART_S, LOST_S, PAUSE_S, CommitRefusals


def test_after_a_refusal_there_is_a_pause_and_a_commit_ends_it() -> None:
    refusals = CommitRefusals()
    assert refusals.may_commit(0.0)
    assert not refusals.refused(0.0)
    assert not refusals.may_commit(PAUSE_S - 0.1)
    assert refusals.may_commit(PAUSE_S)
    refusals.accepted()
    assert refusals.may_commit(PAUSE_S + 0.1)


def test_a_member_that_is_refused_for_a_minute_is_lost() -> None:
    refusals = CommitRefusals()
    asked = [number * PAUSE_S for number in range(100)]
    lost = [now for now in asked if refusals.refused(now)]
    assert lost[0] == LOST_S


def test_a_commit_in_between_begins_the_minute_again() -> None:
    refusals = CommitRefusals()
    assert not refusals.refused(0.0)
    refusals.accepted()
    assert not refusals.refused(LOST_S)


def test_a_refusal_long_after_another_one_is_no_lost_membership() -> None:
    refusals = CommitRefusals()
    assert not refusals.refused(0.0)  # then the partition went to another member: nothing more to commit
    assert not refusals.refused(2 * LOST_S)
    assert not refusals.refused(2 * LOST_S + APART_S)
    assert refusals.refused(3 * LOST_S)
