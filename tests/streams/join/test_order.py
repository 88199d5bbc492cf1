"""Whatever the interleaving, batching, aborts, crashes and lost disks: the outcomes are the oracle's."""

from __future__ import annotations

from driftloop.schemas.spec.model import Join, ModelSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.join.world import World, got, label, oracle, prediction, rules_of

JOIN = Join(horizon=60_000, early_horizon=20_000, correction_window=30_000, clock_skew=1_000)
IDS = ("a", "b", "c", "d", "e")

steps = st.one_of(
    st.tuples(
        st.just("predict"),
        st.sampled_from(IDS),
        st.sampled_from([1, 2]),
        st.sampled_from(["champion", "shadow"]),
        st.sampled_from(["x", "y", None]),
    ),
    st.tuples(st.just("predict again")),
    st.tuples(st.just("predict otherwise")),
    st.tuples(
        st.just("label"),
        st.sampled_from(IDS),
        st.sampled_from(["x", "y", True, False]),
        st.sampled_from(["expert", "system", "user"]),
    ),
    st.tuples(st.just("wait"), st.sampled_from([1, 500, 5_000, 15_000, 25_000, 40_000])),
    st.tuples(st.just("batch"), st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.just("abort"), st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("die"), st.integers(1, 3), st.none() | st.integers(1, 3)),
    st.tuples(st.just("die before the memory knows of the commit")),
    st.tuples(st.just("lose the disk"), st.integers(1, 3)),
)


def play(world: World, script: list[tuple[object, ...]]) -> None:
    """Ids are not used anew: a track answers an id once, or repeats itself at once."""
    seen: set[object] = set()
    last: dict[str, object] | None = None
    for step in script:
        match step:
            case ("predict", str(name), int(version), str(role), answer):
                if (name, version, role) not in seen:
                    seen.add((name, version, role))
                    last = prediction(name, answer, version=version, role=role)  # type: ignore[arg-type]
                    world.send_prediction(last)
            case ("predict again",) if last is not None:
                world.send_prediction(dict(last))
            case ("predict otherwise",) if last is not None:
                world.send_prediction(last | {"features": {"hour": 99}})
            case ("label", str(name), bool(correct), str(source)):
                world.send_label(label(name, correct=correct, source=source))
            case ("label", str(name), str(value), str(source)):
                world.send_label(label(name, value, source=source))
            case ("wait", int(ms)):
                world.now_ms += ms
                last = None
            case ("batch", int(predictions), int(labels)):
                world.batch(predictions, labels)
            case ("abort", int(predictions), int(labels)):
                world.batch(predictions, labels, commits=False)
            case ("flush",):
                world.joiner.flush()
            case ("die", int(chunk), dies_after):
                world.die()
                world.restore(steps=chunk, dies_after=dies_after)  # type: ignore[arg-type]
            case ("die before the memory knows of the commit",):
                world.log(world.process(2, 2))
                world.die()
                world.restore()
            case ("lose the disk", int(chunk)):
                world.die(disk_lost=True)
                world.restore(steps=chunk)
            case _:
                pass


def end(world: World) -> None:
    """Everything is read, and then so much time passes that nothing is waited for any more."""
    world.batch()
    for _ in range(3):
        world.now_ms += 200_000
        world.joiner.flush()
        world.batch()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=60), st.sampled_from([2, 1_000]))
def test_every_interleaving_and_every_crash_gives_the_outcomes_of_the_oracle(
    script: list[tuple[object, ...]], capacity: int
) -> None:
    world = World(rules_of(JOIN, m=ModelSpec()), capacity=capacity)
    play(world, script)
    end(world)
    expected = oracle(world.predictions, world.labels, JOIN)
    assert got(world) == expected.outcomes


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=60))
def test_whatever_happens_vitals_and_dead_letters_account_for_every_record_once(
    script: list[tuple[object, ...]],
) -> None:
    world = World(rules_of(JOIN, m=ModelSpec()), capacity=2)
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=60))
def test_seqs_are_consecutive_and_lead_from_each_error_to_its_outcome(
    script: list[tuple[object, ...]],
) -> None:
    world = World(rules_of(JOIN, m=ModelSpec()), capacity=2)
    play(world, script)
    end(world)
    first = [outcome for outcome, _ in world.outcomes if outcome.revision == 0]
    assert [outcome.seq for outcome in first] == list(range(len(first)))
    own = {(o.prediction_id, o.model, o.version, o.role): o.seq for o in first}
    for outcome, _ in world.outcomes:
        assert outcome.seq == own[outcome.prediction_id, outcome.model, outcome.version, outcome.role]
    assert world.errors() == {o.seq: o.error_value for o in first if o.error_value is not None}
