"""The joiner against the oracle: events, batches, aborts, crashes, new owners, checkpoints, in any order."""

from __future__ import annotations

import copy

from driftloop.schemas.spec.model import Join, ModelSpec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.fuzz import effort
from tests.support.join.memory_store import MemoryStore
from tests.support.join.world import JoinWorld, got, label, oracle, prediction, rules_of

JOIN = Join(horizon=60_000, early_horizon=20_000, correction_window=30_000, clock_skew=1_000)
IDS = ("a", "b", "c", "d")
SOME = st.integers(0, 5)


class JoinerMachine(RuleBasedStateMachine):
    """What has come out is at every moment what the oracle expects of the logs so far, or less."""

    world: JoinWorld

    @initialize(capacity=st.sampled_from([1, 3, 1_000]))
    def begin(self, capacity: int) -> None:
        self.world = JoinWorld(rules_of(JOIN, m=ModelSpec()), capacity=capacity)
        self.seen: set[tuple[str, int, str]] = set()
        self.last: dict[str, object] | None = None
        self.checkpoint = MemoryStore()

    # --- events ---

    @rule(
        name=st.sampled_from(IDS),
        version=st.sampled_from([1, 2]),
        role=st.sampled_from(["champion", "shadow"]),
        answer=st.sampled_from(["x", "y", None]),
    )
    def a_server_answers(self, name: str, version: int, role: str, answer: str | None) -> None:
        if (name, version, role) not in self.seen:
            self.seen.add((name, version, role))
            self.last = prediction(name, answer, version=version, role=role)
            self.world.send_prediction(self.last)

    @precondition(lambda self: self.last is not None)
    @rule(otherwise=st.booleans())
    def it_answers_again(self, otherwise: bool) -> None:
        assert self.last is not None
        self.world.send_prediction(self.last | ({"features": {"hour": 99}} if otherwise else {}))

    @rule(
        name=st.sampled_from(IDS),
        said=st.sampled_from(["x", "y", True, False]),
        source=st.sampled_from(["expert", "system", "user"]),
    )
    def somebody_knows(self, name: str, said: str | bool, source: str) -> None:
        if isinstance(said, bool):
            self.world.send_label(label(name, correct=said, source=source))
        else:
            self.world.send_label(label(name, said, source=source))

    @rule(ms=st.sampled_from([1, 500, 5_000, 15_000, 25_000, 40_000]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms
        self.last = None

    # --- batches ---

    @rule(predictions=SOME, labels=SOME)
    def a_batch_commits(self, predictions: int, labels: int) -> None:
        self.world.batch(predictions, labels)

    @rule(predictions=SOME, labels=SOME)
    def a_batch_aborts(self, predictions: int, labels: int) -> None:
        before = self.world.joiner.position
        self.world.batch(predictions, labels, commits=False)
        assert self.world.joiner.position == before

    @rule()
    def the_state_is_written_behind(self) -> None:
        self.world.joiner.flush()

    @rule()
    def a_checkpoint_is_taken(self) -> None:
        self.world.joiner.flush()
        self.checkpoint = copy.deepcopy(self.world.store)

    # --- ends ---

    @rule(steps=st.integers(1, 3), again_after=st.none() | st.integers(1, 3))
    def it_crashes_and_restores(self, steps: int, again_after: int | None) -> None:
        self.world.die()
        self.world.restore(steps=steps, dies_after=again_after)

    @rule(predictions=SOME, labels=SOME)
    def it_crashes_between_commit_and_memory(self, predictions: int, labels: int) -> None:
        self.world.log(self.world.process(predictions, labels))
        self.world.die()
        self.world.restore()

    @rule(steps=st.integers(1, 3), from_checkpoint=st.booleans())
    def the_partition_moves_to_another_host(self, steps: int, from_checkpoint: bool) -> None:
        self.world.die(disk_lost=True)
        if from_checkpoint:
            self.world.store = copy.deepcopy(self.checkpoint)
            self.world.die()
        self.world.restore(steps=steps)

    # --- what always holds ---

    @invariant()
    def what_came_out_is_expected(self) -> None:
        expected = oracle(self.world.predictions, self.world.labels, JOIN).outcomes
        assert got(self.world).items() <= expected.items()

    @invariant()
    def the_position_is_the_committed_one(self) -> None:
        if self.world.committed is not None:
            at = self.world.joiner.position
            assert (at.predictions, at.labels) == (
                self.world.committed.predictions,
                self.world.committed.labels,
            )

    @invariant()
    def seqs_have_no_hole(self) -> None:
        seqs = [outcome.seq for outcome, _ in self.world.outcomes if outcome.revision == 0]
        assert seqs == list(range(len(seqs)))

    def teardown(self) -> None:
        """In the end nothing is missing."""
        if not hasattr(self, "world"):
            return
        self.world.batch()
        for _ in range(3):
            self.world.now_ms += 200_000
            self.world.joiner.flush()
            self.world.batch()
        expected = oracle(self.world.predictions, self.world.labels, JOIN)
        assert got(self.world) == expected.outcomes
        totals = self.world.totals()
        assert totals["expired"] == expected.unmatched + len(expected.unreached_labels)
        assert (
            totals["dead"]
            == len(self.world.letters)
            == len(expected.conflicts) + len(expected.unreached_labels)
        )


JoinerMachine.TestCase.settings = effort(runs=80, steps=40)
TestJoiner = JoinerMachine.TestCase
