"""Whatever the interleaving, batching, aborts, crashes and lost disks: the outcomes are the oracle's."""

from __future__ import annotations

import pytest
from driftloop.schemas.spec.model import ModelSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.join.scripts import JOIN, end, play, steps
from tests.support.join.world import JoinWorld, got, oracle, rules_of


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=60), st.sampled_from([2, 1_000]))
def test_every_interleaving_and_every_crash_gives_the_outcomes_of_the_oracle(
    script: list[tuple[object, ...]], capacity: int
) -> None:
    world = JoinWorld(rules_of(JOIN, m=ModelSpec()), capacity=capacity)
    play(world, script)
    end(world)
    expected = oracle(world.predictions, world.labels, JOIN)
    assert got(world) == expected.outcomes


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=60))
def test_whatever_happens_vitals_and_dead_letters_account_for_every_record_once(
    script: list[tuple[object, ...]],
) -> None:
    world = JoinWorld(rules_of(JOIN, m=ModelSpec()), capacity=2)
    play(world, script)
    end(world)
    expected = oracle(world.predictions, world.labels, JOIN)
    first = {key: value for key, value in expected.outcomes.items() if key[1] == 0}
    totals = world.totals()
    assert totals["predictions"] == len(world.predictions) - expected.repeats_of_predictions - len(
        expected.conflicts
    )
    assert totals["outcomes"] == len(first)
    assert totals["corrected"] == len(expected.outcomes) - len(first)
    assert totals["expired"] == expected.unmatched + len(expected.unreached_labels)
    assert totals["duplicate"] == expected.repeats_of_predictions + expected.repeats_of_labels
    assert totals["dead"] == len(world.letters)
    dead = [(letter.topic, letter.offset) for letter in world.letters]
    assert sorted(dead) == sorted(
        [("predictions", offset) for offset in expected.conflicts]
        + [("labels", offset) for offset in expected.unreached_labels]
    )


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=60))
def test_seqs_are_consecutive_and_lead_from_each_error_to_its_outcome(
    script: list[tuple[object, ...]],
) -> None:
    world = JoinWorld(rules_of(JOIN, m=ModelSpec()), capacity=2)
    play(world, script)
    end(world)
    first = [outcome for outcome, _ in world.outcomes if outcome.revision == 0]
    assert [outcome.seq for outcome in first] == list(range(len(first)))
    own = {(o.prediction_id, o.model, o.version, o.role): o.seq for o in first}
    for outcome, _ in world.outcomes:
        assert outcome.seq == own[outcome.prediction_id, outcome.model, outcome.version, outcome.role]
    assert world.errors() == {o.seq: o.error_value for o in first if o.error_value is not None}
