"""Scripts for a joiner without a broker: events, waits, batches, aborts and crashes in any order."""

from __future__ import annotations

from driftloop.schemas.spec.model import Join
from hypothesis import strategies as st

from tests.support.join.world import JoinWorld, label, prediction

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


def play(world: JoinWorld, script: list[tuple[object, ...]]) -> None:
    """Run the script. A variant answers an id once, or repeats that answer at once; ids are never reused."""
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


def end(world: JoinWorld) -> None:
    """Read everything, then let enough time pass that nothing is pending any more."""
    world.batch()
    for _ in range(3):
        world.now_ms += 200_000
        world.joiner.flush()
        world.batch()
