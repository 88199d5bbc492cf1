"""What the books of an input partition must say, from the whole logs and from the state as it is kept."""

from __future__ import annotations

from collections.abc import Sequence

from driftloop.schemas.spec.model import Join
from driftloop.streams.join.core import Joiner
from driftloop.streams.join.matching.records import Entry, decode_entry, key_state_of
from driftloop.streams.join.state.books import Account, Books, Pending
from driftloop.streams.join.state.join_state import ENTRY_PREFIX

from tests.support.join.oracle import NO_SPELLINGS, Spellings, oracle
from tests.support.join.world import JoinWorld, LoggedRecord


def kept_pending(joiner: Joiner) -> Pending:
    """Count what waits, entry by entry, in memory and in the store."""
    state = joiner._state
    kept: dict[str, Entry | None] = {
        key.removeprefix(ENTRY_PREFIX).decode(): decode_entry(value)
        for key, value in state._store.scan(ENTRY_PREFIX, b"f")
    }
    kept |= state._old | state._recent | state._unwritten
    of_ids = [key_state_of(entry) for entry in kept.values() if entry is not None]
    return Pending(
        sum(one.match is None for of_id in of_ids for one in of_id.predictions),
        sum(not label.used for of_id in of_ids for label in of_id.labels),
    )


def expected_books(
    predictions: Sequence[LoggedRecord],
    labels: Sequence[LoggedRecord],
    join: Join,
    pending: Pending,
    spellings: Spellings = NO_SPELLINGS,
) -> Books:
    """Classify all records of both logs at once; what met nothing waits, as ``pending``, or has expired."""
    expected = oracle(predictions, labels, join, spellings)
    unmet = len(expected.unreached_labels)
    outcomes = sum(revision == 0 for _, revision in expected.outcomes)
    of_labels = list(expected.reached_as.values())
    return Books(
        Account(
            read=len(predictions),
            outcomes=outcomes,
            pending=pending.predictions,
            expired=expected.unmatched - pending.predictions,
            refused=len(expected.refused_predictions),
            repeated=expected.repeats_of_predictions,
        ),
        Account(
            read=len(labels),
            outcomes=of_labels.count("outcome"),
            pending=pending.labels,
            expired=unmet - pending.labels,
            refused=len(expected.refused_labels),
            repeated=of_labels.count("repeat"),
        ),
    )


def assert_books(world: JoinWorld, join: Join, spellings: Spellings = NO_SPELLINGS) -> None:
    """They balance, and each number is the one that the logs give."""
    at = world.joiner.position
    kept = kept_pending(world.joiner)
    predictions, labels = world.predictions[: at.predictions], world.labels[: at.labels]
    wanted = expected_books(predictions, labels, join, kept, spellings)
    assert world.joiner.books == wanted
    assert world.joiner.books.difference == (0, 0)
    assert wanted.difference == (0, 0)
    counts = world.totals()
    assert counts["expired"] == wanted.predictions.expired + wanted.labels.expired
