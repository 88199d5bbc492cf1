"""A run moves only as its table says."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from driftloop.schemas.errors import IllegalTransition
from driftloop.schemas.runs import TERMINAL, RunStatus, TrainingRun
from driftloop.streams.train.run_lifecycle import ACTIVE, OPEN, TRANSITIONS, RunInput, moved

STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
INPUTS: tuple[RunInput, ...] = get_args(RunInput)


def run(status: RunStatus) -> TrainingRun:
    return TrainingRun(
        run_id="run-1",
        trigger_id="trigger-1",
        model="m",
        stage=0,
        status=status,
        reason="drift",
        ts=1,
        champion=1,
        spec_digest="0" * 64,
    )


@pytest.mark.parametrize(("status", "cause"), list(product(STATUSES, INPUTS)))
def test_every_move_is_in_the_table_or_refused(status: RunStatus, cause: RunInput) -> None:
    if (status, cause) in TRANSITIONS:
        assert moved(run(status), cause, why="because").status == TRANSITIONS[status, cause]
    else:
        with pytest.raises(IllegalTransition, match=f"run-1 is {status}: it cannot {cause}"):
            moved(run(status), cause)


def test_what_has_ended_never_moves_again() -> None:
    assert not [move for move in TRANSITIONS if move[0] in TERMINAL]
    assert {"promoted", "rejected", "failed", "superseded"} == TERMINAL


def test_a_run_is_waiting_or_active_or_has_ended() -> None:
    assert {"waiting", "training", "evaluating"} == OPEN
    assert {"training", "evaluating"} == ACTIVE
    assert set(STATUSES) == OPEN | TERMINAL


def test_a_version_comes_only_from_evaluation() -> None:
    assert [start for (start, _), end in TRANSITIONS.items() if end == "promoted"] == ["evaluating"]


def test_every_open_run_can_fail_and_be_superseded_and_every_active_one_restarts() -> None:
    for status in OPEN:
        assert TRANSITIONS[status, "fail"] == "failed"
        assert TRANSITIONS[status, "supersede"] == "superseded"
    for status in ACTIVE:
        assert TRANSITIONS[status, "restart"] == "training"
