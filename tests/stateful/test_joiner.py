"""Whatever the interleaving, batching, aborts, crashes and lost disks: the outcomes are the oracle's."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test

from tests.support.fuzz import effort
from tests.support.join.machine import JoinerMachine, SpelledLabels


def test_every_interleaving_and_every_crash_gives_the_outcomes_of_the_oracle() -> None:
    run_state_machine_as_test(JoinerMachine, settings=effort(runs=400, steps=50))


def test_however_labels_are_spelled_the_outcomes_and_dead_letters_are_the_oracles() -> None:
    run_state_machine_as_test(SpelledLabels, settings=effort(runs=200, steps=50))
