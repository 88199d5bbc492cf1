"""Trials of late requests, their checker, and a stop in the middle. All kinds: ``make late``."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import pytest

from tests.late.kinds import KINDS, Kind
from tests.late.run import Trials
from tests.late.work import Damage, damage_of
from tests.support.kafka.late_network import INIT_PRODUCER_ID, LateNetwork
from tests.support.stopwatch import Stopwatch

PYTHON = Path(sys.executable)
NAMED = {kind.name: kind for kind in KINDS}
# Before producers in doubt were replaced, each of these lost, repeated or tore something in every trial.
IN_SHORT = (
    "join, small, commit, before records, killed at once",
    "join, backlog, commit, before offsets",
    "join, small, offsets, after offsets, killed at the end",
    "train, small, commit, before records",
    "train, small, commit, between records, killed at once",
    "dlq, small, commit, between records, killed at once",
)


@pytest.mark.parametrize("name", IN_SHORT)
def test_a_late_request_loses_repeats_and_tears_nothing(broker: str, tmp_path: Path, name: str) -> None:
    with LateNetwork(broker) as network:
        result = Trials(broker, network, NAMED[name], tmp_path, PYTHON, seed=1).run(1)
    assert result.clean, result
    assert result.exits == 0


@pytest.mark.parametrize("kind", [KINDS[1], NAMED["train, small, commit, soon"]], ids=["join", "train"])
def test_a_role_stops_within_five_seconds_while_nobody_lets_its_new_producer_begin(
    broker: str, tmp_path: Path, kind: Kind
) -> None:
    with LateNetwork(broker) as network:
        trials = Trials(broker, network, kind, tmp_path, PYTHON, seed=1)
        assert trials.is_ready(0)
        network.hold(lambda request: request.commits and request.of(trials.transactional_id))
        replaced = network.hold(
            lambda request: request.key == INIT_PRODUCER_ID and request.of(trials.transactional_id), cut=False
        )
        for number in count():
            trials.give([f"1-{number}"])
            if replaced.taken.wait(0.1):
                break
        with Stopwatch() as watch:
            trials.role.stop()
    assert watch.seconds < 5


@pytest.mark.parametrize(
    ("results", "parts", "found"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "b": 1}, ("", "", "")),
        ({"a": 1}, {"a": 1}, ("b", "", "")),
        ({"a": 2, "b": 1}, {"a": 2, "b": 1}, ("", "a", "")),
        ({"a": 1, "b": 1}, {"a": 1}, ("", "", "b")),
        ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}, ("", "", "c")),
    ],
)
def test_the_checker_sees_what_is_lost_repeated_or_torn(
    results: dict[str, int], parts: dict[str, int], found: tuple[str, str, str]
) -> None:
    lost, twice, torn = map(frozenset, found)
    assert damage_of("ab", results, parts) == Damage(lost, twice, torn)
