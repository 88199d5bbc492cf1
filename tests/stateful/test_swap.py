"""No sequence of updates leaves a server without what it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from driftloop.schemas.errors import NoModelError
from driftloop.streams.serve.hot.swap import VersionAnswer
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.serve.broken_updates import FAILURES, altered_update, other_model, strange_update
from tests.support.serve.hot_bench import FITTED, ROW, HotBench, ref


class SwapMachine(RuleBasedStateMachine):
    """Updates good and bad, in any order, against the simplest oracle: what serves, and since when."""

    bench: HotBench
    live: int
    generation: int
    seen: int

    @initialize(folder=st.uuids())
    def start(self, folder: Any) -> None:
        self.bench = HotBench(Path(self.root) / str(folder))
        self.live, self.generation, self.seen = 0, 0, 0

    root = "set by the test"

    @rule(
        step=st.integers(-2, 3),
        version=st.none() | st.integers(1, 5),
        role=st.sampled_from(["none", "shadow", "canary"]),
    )
    def good_update(self, step: int, version: int | None, role: str) -> None:
        generation = max(self.seen + step, 1)
        plan: dict[str, Any] = {}
        if role == "shadow":
            plan["shadows"] = [ref(self.bench, 4)]
        if role == "canary":
            plan["canary"] = ref(self.bench, 5, fraction=0.5)
        applied = self.bench.apply(self.bench.update(generation, version, **plan))
        if generation < self.seen or generation == self.generation:
            assert applied.status == "refused"
        else:
            assert applied.status == "live"
            self.live, self.generation, self.seen = version or 0, generation, generation

    @rule(step=st.integers(1, 3), failure=st.sampled_from(sorted(FAILURES, key=lambda f: f.__name__)))
    def bad_update(self, step: int, failure: Any) -> None:
        other = HotBench(Path(self.root) / f"{self.bench.folder.parent.name}-bad-{failure.__name__}")
        other.signer, other.verifier = self.bench.signer, self.bench.verifier
        for version, fitted in FITTED.items():
            other.publish(version, fitted)
        update = failure(other)
        authentic = failure not in (strange_update, altered_update, other_model)
        if authentic:
            update = self.bench.signer.sign(update.model_copy(update={"generation": self.seen + step}))
        applied = self.bench.swap.apply(update, store=other.store, verifier=self.bench.verifier)
        known = {self.live, *self.bench.swap.current.shadows, self.bench.swap.current.canary}
        if applied.status == "live":
            # What is loaded already is not read again, so a damaged copy in the store does no harm.
            assert {2, 3} & known
            self.live, self.generation = update.plan.champion.version, update.generation
        if authentic:
            self.seen += step

    @invariant()
    def the_version_that_serves_is_the_last_that_went_live(self) -> None:
        swap = self.bench.swap
        assert swap.last_generation == self.seen
        assert (swap.current.version, swap.current.generation) == (self.live, self.generation)
        if self.live:
            served = swap.predict([ROW])[0]
            assert isinstance(served, VersionAnswer)
            assert served.version == self.live
        else:
            with pytest.raises(NoModelError):
                swap.predict([ROW])


@pytest.mark.slow
def test_no_sequence_of_updates_leaves_a_server_without_what_it_had(tmp_path: Path) -> None:
    class Machine(SwapMachine):
        root = str(tmp_path)

    case = Machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
    case().runTest()
