"""The joiner against the oracle: events, batches, aborts, crashes, new owners, checkpoints, in any order."""

from __future__ import annotations

import copy

from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.join.state.join_state import StateStore
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.join.books import assert_books
from tests.support.join.memory_store import MemoryStore
from tests.support.join.oracle import UNKNOWN_MODEL, ExpectedOutcomes, Spellings, got, identity_of, oracle
from tests.support.join.world import (
    JOIN,
    JoinWorld,
    label,
    prediction,
    rules_of,
)

# Of classes that are declared: what a sender writes, and which class that is.
SPELLINGS = {"X": "x", " y": "y", "z": None}
UNDECLARED = {" y": "y"}  # letters count with their case, and any name may be a class
IDS = ("a", "b", "c", "d", "e")
SOME = st.integers(0, 5)


class JoinerMachine(RuleBasedStateMachine):
    """What has come out is at every moment what the oracle expects of the logs so far, or less.

    A variant answers an id once, or repeats that answer at once; ids are never reused.
    """

    world: JoinWorld
    spec = ModelSpec()
    spellings: Spellings = UNDECLARED

    def new_store(self) -> StateStore:
        return MemoryStore()

    @initialize(capacity=st.sampled_from([1, 3, 1_000]))
    def begin(self, capacity: int) -> None:
        self.world = JoinWorld(rules_of(JOIN, m=self.spec), capacity=capacity, store=self.new_store())
        self.seen: set[tuple[str, int, str]] = set()
        self.last: dict[str, object] | None = None
        self.checkpoint = MemoryStore()

    # --- events ---

    @rule(
        name=st.sampled_from(IDS),
        version=st.sampled_from([1, 2]),
        role=st.sampled_from(["champion", "shadow"]),
        answer=st.sampled_from(["x", "y", "Y", None]),
    )
    def a_server_answers(self, name: str, version: int, role: str, answer: str | None) -> None:
        if (name, version, role) not in self.seen:
            self.seen.add((name, version, role))
            self.last = prediction(name, answer, version=version, role=role)
            self.world.send(self.last)

    @precondition(lambda self: self.last is not None)
    @rule(otherwise=st.booleans())
    def it_answers_again(self, otherwise: bool) -> None:
        assert self.last is not None
        self.world.send(self.last | ({"features": {"hour": 99}} if otherwise else {}))

    @rule(
        name=st.sampled_from(IDS),
        said=st.sampled_from([{"value": "x"}, {"value": "y"}, {"correct": True}, {"correct": False}]),
        source=st.sampled_from(["expert", "system", "user"]),
    )
    def somebody_knows(self, name: str, said: dict[str, str | bool], source: str) -> None:
        self.world.send(label(name, **said, source=source))  # type: ignore[arg-type]

    @rule(name=st.sampled_from(IDS), value=st.sampled_from(sorted(SPELLINGS)))
    def somebody_spells_it_otherwise(self, name: str, value: str) -> None:
        self.world.send(label(name, value))

    @rule(name=st.sampled_from(IDS))
    def something_unusable_comes(self, name: str) -> None:
        self.world.send(prediction(name, model=UNKNOWN_MODEL), {"prediction_id": name, "ts": 1})

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

    @precondition(lambda self: isinstance(self.world.store, MemoryStore))
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
        expected = self.expected().outcomes
        assert got(self.world, self.spellings).items() <= expected.items()

    @invariant()
    def the_position_is_the_committed_one(self) -> None:
        assert self.world.committed is None or self.world.at(self.world.committed)

    @invariant()
    def the_books_balance_and_say_what_the_logs_say(self) -> None:
        assert_books(self.world, JOIN, self.spellings)

    @invariant()
    def seqs_have_no_hole_and_lead_from_each_error_to_its_outcome(self) -> None:
        first = [outcome for outcome in self.world.outcomes if outcome.revision == 0]
        assert [outcome.seq for outcome in first] == list(range(len(first)))
        own = {identity_of(outcome): outcome.seq for outcome in first}
        assert all(outcome.seq == own[identity_of(outcome)] for outcome in self.world.outcomes)
        assert self.world.errors() == {o.seq: o.error_value for o in first if o.error_value is not None}

    def teardown(self) -> None:
        """In the end nothing is missing, and vitals and dead letters account for every record once."""
        if not hasattr(self, "world"):
            return
        self.world.batch()
        for _ in range(3):
            self.world.now_ms += 200_000
            self.world.joiner.flush()
            self.world.batch()
        expected = self.expected()
        assert got(self.world, self.spellings) == expected.outcomes
        first = sum(revision == 0 for _, revision in expected.outcomes)
        repeated = expected.repeats_of_predictions
        totals = self.world.totals()
        accepted = len(self.world.predictions) - repeated - len(expected.refused_predictions)
        assert totals["predictions"] == accepted
        assert totals["outcomes"] == first
        assert totals["corrected"] == len(expected.outcomes) - first
        assert totals["expired"] == expected.unmatched + len(expected.unreached_labels)
        assert totals["duplicate"] == repeated + expected.repeats_of_labels
        assert totals["dead"] == len(self.world.dead_letters)
        assert sorted((letter.topic, letter.offset) for letter in self.world.dead_letters) == sorted(
            [("predictions", offset) for offset in expected.refused_predictions]
            + [("labels", offset) for offset in expected.unreached_labels | expected.refused_labels]
        )

    def expected(self) -> ExpectedOutcomes:
        return oracle(self.world.predictions, self.world.labels, JOIN, self.spellings)


class SpelledLabels(JoinerMachine):
    """The same for a model that declares its classes, which not everybody spells as it does."""

    spec = ModelSpec(classes=("x", "y"))
    spellings: Spellings = SPELLINGS | {"Y": "y"}
