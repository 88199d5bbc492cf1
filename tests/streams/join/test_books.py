"""Each prediction and each label is in exactly one class of the books, the one that it should be in."""

from __future__ import annotations

import orjson
import pytest
from driftloop.schemas.spec.model import Join, LabelRules, ModelSpec
from driftloop.streams.join.matching.records import MAX_PER_ID
from driftloop.streams.join.reading.batch import BatchReader, Records
from driftloop.streams.join.state.books import Account, Books, Pending
from driftloop.streams.join.state.position import Position

from tests.support.join.books import kept_pending
from tests.support.join.world import JoinWorld, label, prediction, rules_of

HOUR = 3_600_000


def world(join: Join | None = None, **specs: ModelSpec) -> JoinWorld:
    return JoinWorld(rules_of(join or Join(), **(specs or {"m": ModelSpec()})), capacity=1_000)


def books(of: JoinWorld) -> Books:
    """They say of the state what it holds, and stay what they are when it is restored without its disk."""
    found = of.joiner.books
    assert found.pending == kept_pending(of.joiner)
    of.die(disk_lost=True)
    of.restore()
    assert of.joiner.books == found
    assert kept_pending(of.joiner) == found.pending
    return found


def test_a_pair_a_correction_a_repeat_a_weaker_label_and_what_waits() -> None:
    w = world()
    w.join(prediction("a", "x"), prediction("b", "x"), label("z", "x"))
    w.join(label("a", "x"), label("a", "y"), label("a", "y"), label("a", "x", source="user"))
    w.join(prediction("a", "x"))
    w.join(prediction("c", "x", role="shadow"), prediction("c", "x"), label("c", "x"))
    assert books(w) == Books(
        Account(read=5, outcomes=3, pending=1, repeated=1),
        Account(read=6, outcomes=3, pending=1, repeated=2),
    )


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_label_is_in_the_class_of_the_first_prediction_that_it_reaches(one_by_one: bool) -> None:
    w = world(
        number=ModelSpec(task="regression"),
        m=ModelSpec(),
        expert=ModelSpec(labels=LabelRules(allowed_sources=("expert",))),
    )
    events = (
        label("a", "late"), prediction("a", 1.5, model="number"), prediction("a", "late"),
        label("b", "late"), prediction("b", "late"), prediction("b", 1.5, model="number"),
        label("c", "late"), prediction("c", "late", model="expert"), prediction("c", "late"),
        label("d", correct=True), prediction("d", "late", role="shadow"),
    )  # fmt: skip
    if one_by_one:
        for event in events:
            w.join(event)
    else:
        w.join(*events)
    # Of d nothing met: feedback says nothing of a shadow.
    wanted = Account(read=4, outcomes=1, refused=2, pending=1)
    assert books(w) == Books(Account(read=7, outcomes=3, pending=4), wanted)


def test_what_has_expired_is_no_longer_pending() -> None:
    w = world(Join(horizon=HOUR, early_horizon=HOUR, correction_window=HOUR))
    w.join(prediction("a", "x"), prediction("b", "x"), label("b", "x"), label("z", "x"))
    for _ in range(3):
        w.now_ms += 2 * HOUR
        w.joiner.flush()
        w.batch()
    assert books(w) == Books(Account(read=2, outcomes=1, expired=1), Account(read=2, outcomes=1, expired=1))
    # The id is used again.
    w.join(prediction("b", "y"), label("b", "x"))
    assert books(w) == Books(Account(read=3, outcomes=2, expired=1), Account(read=3, outcomes=2, expired=1))


def test_what_cannot_be_used_is_refused() -> None:
    w = world(m=ModelSpec(), number=ModelSpec(task="regression"))
    w.join(
        prediction("a", "x", model="unknown"), prediction("b", "much", model="number"),
        {"prediction_id": "c", "model": "m"}, {"prediction_id": "c"},
    )  # fmt: skip
    for version in range(MAX_PER_ID + 5):
        w.send(prediction("d", version=version), label("e", f"l{version}"))
    w.batch()
    w.join(prediction("d", "y", version=0))
    assert books(w) == Books(
        Account(read=MAX_PER_ID + 9, pending=MAX_PER_ID, refused=9),
        Account(read=MAX_PER_ID + 6, pending=MAX_PER_ID, refused=6),
    )


def test_misrouted_records_are_a_class_of_their_own() -> None:
    w = world()
    w.reader = BatchReader(0, 7)
    w.send(*(prediction(f"p{i}") for i in range(50)), *(label(f"p{i}", "x") for i in range(20)))
    w.batch()
    found = w.joiner.books
    assert found.predictions.misrouted + found.predictions.outcomes + found.predictions.pending == 50
    assert found.labels.misrouted + found.labels.outcomes == 20
    assert min(found.predictions.misrouted, found.labels.misrouted, found.labels.outcomes) > 0
    # A second time it is not sent on.
    headers = [("driftloop-origin", b"predictions/3/12")]
    values = [orjson.dumps(prediction(f"p{i}")) for i in range(50)]
    records = Records(values, [None] * 50, range(50, 100), [w.now_ms] * 50, lambda _: headers)
    w.joiner.process(w.reader.read(records, Records()))
    w.joiner.commit()
    after = w.joiner.books
    assert after.predictions.misrouted == after.predictions.refused == found.predictions.misrouted
    assert after.difference == (0, 0)


def test_an_aborted_batch_leaves_the_books_as_they_were() -> None:
    w = world()
    w.join(prediction("a", "x"))
    before = w.joiner.books
    w.send(label("a", "x"))
    w.batch(commits=False)
    assert w.joiner.books == before
    w.batch()
    assert books(w) == Books(Account(read=1, outcomes=1), Account(read=1, outcomes=1))


def test_offsets_without_books_open_them_with_what_waits() -> None:
    w = world()
    w.join(prediction("a", "x"), prediction("b", "x"), label("a", "x"), label("z", "x"))
    w.joiner.flush()
    w.die()
    w.joiner.finish_restore(w.joiner.position._replace(books=None))
    assert w.joiner.books == Books(Account(read=1, pending=1), Account(read=1, pending=1))
    w.join(label("b", "x"))
    assert w.joiner.books == Books(Account(read=1, outcomes=1), Account(read=2, outcomes=1, pending=1))


def test_what_is_missing_from_a_restored_state_leaves_a_difference_that_stays_until_it_is_back() -> None:
    w = world()
    w.join(prediction("a", "x"), prediction("b", "x"), label("z", "x"))
    target = w.joiner.position
    w.die(disk_lost=True)
    assert w.joiner.books == Books()
    w.joiner.finish_restore(target)
    assert w.joiner.books.difference == (2, 1)
    assert "2 read, but 0 outcomes + 0 pending" in str(w.joiner.books)
    assert "2 in no class" in str(w.joiner.books)
    w.joiner.commit()
    w.send(prediction("c", "x"))
    w.joiner.process(w.reader.read(Records(), Records()))
    w.joiner.commit()
    assert w.joiner.books.difference == (2, 1)


def test_a_position_is_written_and_read_back_with_its_books() -> None:
    whole = Position(1, 2, 3, 4, 5, 6, 7, 8, Books(Account(*range(10, 17)), Account(*range(20, 27))))
    assert Position.of_numbers(whole.numbers()) == whole
    bare = whole._replace(books=None)
    assert Position.of_numbers(bare.numbers()) == bare
    with pytest.raises(ValueError, match="not 9"):
        Position.of_numbers([*bare.numbers(), 9])


def test_books_are_opened_balanced() -> None:
    assert Books.opened(Pending(3, 4)) == Books(Account(read=3, pending=3), Account(read=4, pending=4))
    assert Account(read=1, outcomes=2).difference == -1
    assert "1 in two classes" in str(Account(read=1, outcomes=2))
