"""An id whose predictions expire one after the other: each does when it is due, flushed in between or not."""

from __future__ import annotations

import pytest
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.join.expiry import all_deadlines, deadlines
from driftloop.streams.join.matching import records

from tests.support.join.world import JOIN, JoinWorld, prediction, rules_of


@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
def test_a_shadows_prediction_expires_although_the_champions_did_a_moment_ago(
    flushed: bool, aborted: bool
) -> None:
    world = JoinWorld(rules_of(JOIN, m=ModelSpec()))
    start_ms = world.now_ms
    world.send(prediction("a", "x"))
    world.now_ms += 5_000
    world.join(prediction("a", "y", role="shadow"))
    world.joiner.flush()
    for seconds, expired in ((64, 1), (75, 2), (200, 2)):
        world.now_ms = start_ms + seconds * 1_000
        if aborted:
            world.batch(commits=False)
        world.batch()
        assert world.totals()["expired"] == expired
        if flushed:
            world.joiner.flush()
    world.joiner.flush()
    assert not any(key.startswith(b"e") for key, _ in world.store.scan(b"", b"\xff"))


PENDING = records.PendingPrediction(records.Variant("m", 1, "champion"), b"{", 5_000, 1, "x", (), None)
LABEL = records.BufferedLabel(b"{}", b"a", 9_000, 3, False)
PAIR = records.JoinedPair(PENDING, "x", "system", 0, b"{}", 9_000, 3)
MATCHED = PENDING.matched(records.Match("x", False, "system", 7_000, 0, 0))
ENTRIES: list[records.Entry] = [PENDING, MATCHED, LABEL, LABEL.reached(), PAIR]


def test_many_entries_are_due_when_each_of_them_is() -> None:
    entries = ENTRIES + [records.key_state_of(entry) for entry in ENTRIES]
    columns = all_deadlines(entries, JOIN)
    each = [deadlines(entry, JOIN) for entry in entries]
    assert list(zip(columns.prediction_ms, columns.label_ms, strict=True)) == each
    assert each[: len(ENTRIES)] == each[len(ENTRIES) :]
