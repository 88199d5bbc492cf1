"""kill -9 at every step, stops, freezes, a second trainer: no run is forked, no version given twice."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from driftloop.infra.settings import Settings
from driftloop.schemas.runs import TrainingRun
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.train.run_lifecycle import OPEN, TRANSITIONS

from tests.support.stopwatch import stopped
from tests.support.train.learners import custom
from tests.support.train.world import TrainerProcess, World, no_version_twice, quick_spec
from tests.support.waiting import wait_until

MOVES = {(start, end) for (start, _), end in TRANSITIONS.items()}


@pytest.fixture
def world(settings: Settings, topics: Connection) -> World:
    return World(settings, topics)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    return tmp_path / "begun"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def gated(world: World, begun: Path, gate: Path) -> None:
    """There is something to train on; a training begins, and ends when the gate is there."""
    world.apply(quick_spec(learner=custom("Gated", begun=str(begun), gate=str(gate))))
    world.outcomes(320)


def assert_no_forks(world: World) -> None:
    newest: dict[str, TrainingRun] = {}
    for run in world.run_records():
        known = newest.get(run.run_id)
        assert known is None or (known.status, run.status) in MOVES, (known, run)
        newest[run.run_id] = run
    updates = world.updates()
    assert no_version_twice(updates)
    promoted = sorted(run.version or 0 for run in newest.values() if run.status == "promoted")
    assert promoted == list(range(1, len(promoted) + 1))
    assert len(promoted) == updates[-1].last_version


def test_killed_before_and_after_each_commit_the_run_still_ends_once(world: World) -> None:
    world.apply(quick_spec())
    world.outcomes(320)
    trigger = world.trigger("volume")
    for status in ("waiting", "training", "evaluating", "update"):
        for when in ("before", "after"):
            with TrainerProcess(world, dies=f"{when}:{status}") as doomed:
                wait_until(lambda doomed=doomed: doomed.process.poll() is not None, f"{when} {status}")
                assert doomed.process.returncode == -signal.SIGKILL
    run = world.ended(trigger)
    assert (run.status, run.version) == ("promoted", 1), run.why
    assert len({update.generation for update in world.updates()}) == len(world.updates()) == 1
    change = world.here()
    with TrainerProcess(world):
        world.outcomes(320, version=1, flipped=True)
        run = world.ended(world.trigger("drift", version=1, change=change))
    assert (run.status, run.version) == ("promoted", 2), run.why
    assert len(world.runs()) == 2
    assert_no_forks(world)


def test_aborted_transactions_leave_nothing_and_the_run_goes_on(world: World) -> None:
    world.apply(quick_spec())
    world.outcomes(320)
    with TrainerProcess(world, dies="abort:each") as trainer:
        run = world.ended(world.trigger("volume"))
        assert trainer.text().count("transaction aborted") == 4
    assert (run.status, run.version, run.attempt) == ("promoted", 1, 1), run.why
    assert_no_forks(world)


def test_killed_while_it_trains_the_run_starts_again_with_the_same_rows(
    world: World, begun: Path, gate: Path
) -> None:
    gated(world, begun, gate)
    with TrainerProcess(world) as first:
        trigger = world.trigger("volume")
        fork = wait_until(lambda: begun.exists() and begun.read_text(), "training to begin")
        first.kill()
        wait_until(lambda: not Path(f"/proc/{fork}").exists(), what="the child to end with its trainer")
    world.outcomes(500)  # what came since is not in the window
    gate.touch()
    with TrainerProcess(world):
        run = world.ended(trigger)
    assert (run.status, run.attempt) == ("promoted", 2), run.why
    assert run.lineage is not None
    assert run.lineage.rows == 320
    assert_no_forks(world)


def test_asked_to_stop_while_it_trains_it_ends_within_five_seconds_and_the_run_goes_on_later(
    world: World, begun: Path, gate: Path
) -> None:
    gated(world, begun, gate)
    with TrainerProcess(world) as first:
        trigger = world.trigger("volume")
        wait_until(begun.exists, "training to begin")
        assert stopped(first.process) < 5.0
    gate.touch()
    with TrainerProcess(world):
        run = world.ended(trigger)
    assert (run.status, run.attempt) == ("promoted", 2), run.why
    assert_no_forks(world)


def test_a_frozen_trainer_that_was_replaced_cannot_write_when_it_thaws(
    world: World, begun: Path, gate: Path
) -> None:
    gated(world, begun, gate)
    with TrainerProcess(world, instance="train-0") as frozen:
        trigger = world.trigger("volume")
        wait_until(begun.exists, "training to begin")
        os.kill(frozen.process.pid, signal.SIGSTOP)
        with TrainerProcess(world, instance="train-1"):
            wait_until(lambda: _attempts(world) == 2, "the other to take over")
            gate.touch()  # both children go on now
            assert world.ended(trigger).status == "promoted"
            os.kill(frozen.process.pid, signal.SIGCONT)
            change = world.here()
            world.outcomes(320, version=1, flipped=True)
            run = world.ended(world.trigger("drift", version=1, change=change))
            assert (run.status, run.version) == ("promoted", 2), run.why
    assert_no_forks(world)
    assert len(world.updates()) == 2


def test_kills_at_random_moments_neither_fork_nor_lose_a_run(world: World) -> None:
    """Killed by a timer that nothing in the trainer knows of, over several runs."""
    world.apply(quick_spec())
    world.outcomes(320)
    triggers = [world.trigger("volume")]
    version = 0
    for kill_after_s in (1.5, 2.5, 3.5, 2.0, 3.0, None):
        with TrainerProcess(world) as trainer:
            if kill_after_s is not None:
                timer = threading.Timer(kill_after_s, trainer.kill)
                timer.start()
                timer.join()
                continue
            while len(triggers) < 4:
                run = world.ended(triggers[-1])
                assert run.status == "promoted", run.why
                version += 1
                change = world.here()
                world.outcomes(320, version=version, flipped=version % 2 == 1)
                triggers.append(world.trigger("drift", version=version, change=change))
            world.ended(triggers[-1])
    assert_no_forks(world)
    assert len(world.runs()) == len(triggers)
    assert not [run for run in world.runs().values() if run.status in OPEN]


def _attempts(world: World) -> int:
    return max((run.attempt for run in world.runs().values()), default=0)
