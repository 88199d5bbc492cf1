"""Wrong clocks, wrong order, shared and repeated ids: what docs/time-and-identity.md says becomes of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from driftloop.schemas.spec.model import Join, ModelSpec
from driftloop.streams.join.matching.records import MAX_PER_ID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.join.world import JoinWorld, label, prediction, rules_of
from tests.support.paths import DOCS, ROOT

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR
JOIN = Join(horizon=10 * HOUR, early_horizon=HOUR, correction_window=2 * HOUR)
PAGE = DOCS / "time-and-identity.md"


@pytest.fixture
def w() -> JoinWorld:
    return JoinWorld(rules_of(JOIN, m=ModelSpec(), n=ModelSpec()), capacity=1_000)


def wait(w: JoinWorld, ms: int, *events: dict[str, object]) -> None:
    """Time passes after the events, and whatever ends by then is ended."""
    w.join(*events)
    w.now_ms += ms
    w.joiner.flush()
    w.batch()
    w.joiner.flush()
    w.batch()


@pytest.mark.parametrize("prediction_ts", [0, 1_700_000_000_000 + 50 * YEAR])
@pytest.mark.parametrize("label_ts", [0, 1_700_000_000_000 - 20 * YEAR, 2**53 - 1])
def test_clocks_that_are_years_wrong_change_no_pair(w: JoinWorld, prediction_ts: int, label_ts: int) -> None:
    w.join(prediction("a", "x") | {"ts": prediction_ts}, label("a", "x") | {"ts": label_ts})
    (outcome,) = w.outcomes
    assert (outcome.ts, outcome.label_ts) == (prediction_ts, label_ts)
    assert outcome.label_delay_ms == label_ts - prediction_ts
    wait(w, JOIN.horizon + JOIN.clock_skew + 2_000)
    assert w.dead_letters == []
    assert w.totals()["outcomes"] == 1
    assert w.totals()["expired"] == 0


UNITS = {"seconds": 1, "microseconds": 10**6, "nanoseconds": 10**9}


def is_in_milliseconds(ts: int) -> bool:
    """Say it apart from the code under test: in no other unit between 1973 and 2100, nor a date's digits."""
    in_another = any(10**8 * per_s <= ts < 4_102_444_800 * per_s for per_s in UNITS.values())
    return not in_another and len(str(ts)) not in (8, 14)


times = st.integers(0, 2**53 - 1).filter(is_in_milliseconds)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.sampled_from("xy"), times), max_size=12))
def test_what_is_joined_does_not_depend_on_event_times(events: list[tuple[str, bool, str, int]]) -> None:
    def joined(shifted: bool) -> list[tuple[object, ...]]:
        w = JoinWorld(rules_of(JOIN, m=ModelSpec()))
        for version, (name, is_label, value, ts) in enumerate(events):
            made = label(name, value) if is_label else prediction(name, value, version=version)
            w.send(made | {"ts": ts if shifted else 5})
            w.now_ms += 1_000
        w.batch()
        return [(o.prediction_id, o.version, o.label, o.revision, o.seq, o.error_value) for o in w.outcomes]

    assert joined(shifted=True) == joined(shifted=False)


@pytest.mark.parametrize("ts", [-1, 2**53, 1.5, "now", None])
def test_a_time_that_is_no_time_is_refused(w: JoinWorld, ts: object) -> None:
    w.join(prediction("a", "x") | {"ts": ts}, label("a", "x") | {"ts": ts})
    assert len(w.dead_letters) == w.totals()["dead"] == 2
    assert all("ts" in letter.reason for letter in w.dead_letters)


@pytest.mark.parametrize(("unit", "per_s"), UNITS.items())
@pytest.mark.parametrize("second", [100_000_000, 1_700_000_000, 4_102_444_799])  # 1973, 2023, 2099
def test_a_time_in_another_unit_is_refused_and_named(
    w: JoinWorld, unit: str, per_s: int, second: int
) -> None:
    """One of two services only: the other's rows stay as they are."""
    ts = second * per_s
    w.join(prediction("a", "x"), label("a", "x"), prediction("b", "x") | {"ts": ts})
    w.join(label("c", "x") | {"ts": ts}, prediction("d", "x") | {"ts": ts, "own": "field"})
    assert len(w.dead_letters) == w.totals()["dead"] == 3
    assert [outcome.prediction_id for outcome in w.outcomes] == ["a"]
    for letter in w.dead_letters:
        assert re.match(
            rf"(Prediction|Label): ts: is in {unit} \(.* UTC\), not in milliseconds", letter.reason
        )
        assert letter.reason.endswith(f"(got {ts})")


def test_however_a_class_is_spelled_it_is_the_same_label(w: JoinWorld) -> None:
    w.joiner.rules = rules_of(JOIN, m=ModelSpec(classes=("0", "1")))
    w.join(prediction("a", "1"), label("a", 1), label("a", "1.0"), label("a", True), label("a", " 1"))
    assert [(o.label, o.error_value, o.revision) for o in w.outcomes] == [(1, 0.0, 0)]
    assert w.totals()["duplicate"] == 3
    assert w.dead_letters == []


def test_a_label_of_no_class_is_kept_as_a_dead_letter(w: JoinWorld) -> None:
    w.joiner.rules = rules_of(JOIN, m=ModelSpec(classes=("late", "on_time")))
    w.join(prediction("a", "late"), label("a", "delayed"), label("a", "Late"), label("a", "delayed"))
    assert [(o.error_value, o.revision) for o in w.outcomes] == [(0.0, 0)]
    assert [letter.offset for letter in w.dead_letters] == [0, 2]
    assert all(
        "'delayed' is not one of the classes of m ('late', 'on_time')" in one.reason for one in w.dead_letters
    )
    assert w.totals()["dead"] == 2


def test_a_label_may_come_before_its_prediction(w: JoinWorld) -> None:
    w.join(label("a", "x"))
    w.now_ms += JOIN.early_horizon
    w.join(prediction("a", "x"))
    assert [(o.prediction_id, o.error_value) for o in w.outcomes] == [("a", 0.0)]
    assert (w.totals()["early"], w.totals()["outcomes"]) == (1, 1)


def test_a_label_that_comes_much_too_early_ends_as_a_dead_letter(w: JoinWorld) -> None:
    w.join(label("a", "x"))
    w.now_ms += JOIN.early_horizon + 1
    wait(w, JOIN.clock_skew + 2_000, prediction("a", "x"))
    assert w.outcomes == []
    (letter,) = w.dead_letters
    assert letter.reason.startswith("expired")
    w.join(label("a", "y"))
    assert [o.label for o in w.outcomes] == ["y"]


def test_a_label_of_nobody_ends_as_a_dead_letter(w: JoinWorld) -> None:
    wait(w, JOIN.early_horizon + JOIN.clock_skew + 2_000, label("nobody", "x"))
    assert [letter.reason[:7] for letter in w.dead_letters] == ["expired"]
    assert w.totals()["expired"] == 1


def test_a_label_after_the_horizon_is_late_and_kept_as_a_dead_letter(w: JoinWorld) -> None:
    w.send(prediction("a", "x"), prediction("b", "x"))
    w.now_ms += JOIN.horizon
    w.send(label("a", "x"))
    w.now_ms += 1
    wait(w, JOIN.early_horizon + JOIN.clock_skew + 2_000, label("b", "x"))
    assert [o.prediction_id for o in w.outcomes] == ["a"]
    assert w.totals()["late"] == 1
    assert [letter.reason[:7] for letter in w.dead_letters] == ["expired"]


def test_a_prediction_without_a_label_is_counted_when_its_time_is_over(w: JoinWorld) -> None:
    wait(w, JOIN.horizon + JOIN.clock_skew + 2_000, prediction("a", "x"))
    assert w.totals()["expired"] == 1
    assert (w.outcomes, w.dead_letters) == ([], [])


def test_one_id_of_two_models_gives_each_an_outcome(w: JoinWorld) -> None:
    w.join(prediction("a", "x", model="m"), prediction("a", "y", model="n"), label("a", "x"))
    assert {(o.model, o.error_value) for o in w.outcomes} == {("m", 0.0), ("n", 1.0)}
    assert sorted(o.seq for o in w.outcomes) == [0, 1]


def test_feedback_of_a_shared_id_is_the_champions(w: JoinWorld) -> None:
    for role in ("shadow", "champion", "canary"):
        w.send(prediction("a", "x", version=len(role), role=role))
    w.join(label("a", correct=False))
    assert [(o.role, o.correct, o.label, o.error_value) for o in w.outcomes] == [
        ("champion", False, None, 1.0)
    ]
    w.join(label("a", "x"))
    assert {(o.role, o.revision) for o in w.outcomes} == {
        ("champion", 0), ("champion", 1), ("shadow", 0), ("canary", 0),
    }  # fmt: skip


def test_a_repeated_prediction_changes_nothing(w: JoinWorld) -> None:
    for moment in (0, 0, 1):
        w.send(prediction("a", "x"))
        if moment == 1:
            w.batch()
        w.join(label("a", "x"))
    assert len(w.outcomes) == w.totals()["predictions"] == 1
    assert w.totals()["duplicate"] == 2 + 2  # predictions and labels
    assert w.dead_letters == []


def test_another_prediction_under_the_same_name_is_refused(w: JoinWorld) -> None:
    first = prediction("a", "x")
    w.join(first, first | {"prediction": "y"})
    w.join(dict(reversed(first.items())), label("a", "x"))
    assert [o.prediction for o in w.outcomes] == ["x"]
    assert [letter.offset for letter in w.dead_letters] == [1, 2]
    assert (w.totals()["predictions"], w.totals()["dead"]) == (1, 2)
    assert all("other content" in letter.reason for letter in w.dead_letters)


def test_an_id_may_be_used_again_once_its_time_is_over(w: JoinWorld) -> None:
    for answer in ("x", "y"):
        wait(w, JOIN.correction_window + JOIN.clock_skew + 2_000, prediction("a", answer), label("a", "x"))
    assert [(o.prediction, o.revision, o.seq) for o in w.outcomes] == [("x", 0, 0), ("y", 0, 1)]


def test_a_label_repeated_is_dropped(w: JoinWorld) -> None:
    w.send(prediction("a", "x"))
    for value in ("x", "x", "y", "y", "x"):
        w.send(label("a", value))
    w.batch()
    assert [(o.label, o.revision, o.seq) for o in w.outcomes] == [("x", 0, 0), ("y", 1, 0), ("x", 2, 0)]
    assert (w.totals()["corrected"], w.totals()["duplicate"]) == (2, 2)
    assert w.errors() == {0: 0.0}


def test_a_correction_that_comes_too_late_is_kept_as_a_dead_letter(w: JoinWorld) -> None:
    w.join(prediction("a", "x"), label("a", "x"))
    w.now_ms += JOIN.correction_window + 1
    wait(w, JOIN.early_horizon + JOIN.clock_skew + 2_000, label("a", "y"))
    assert [o.label for o in w.outcomes] == ["x"]
    assert w.totals()["late"] == 1
    assert [letter.reason[:7] for letter in w.dead_letters] == ["expired"]


@pytest.mark.parametrize("first", ["prediction", "labels"])
def test_a_storm_of_labels_of_one_id_is_bounded(w: JoinWorld, first: str) -> None:
    storm = [label("a", "xy"[i % 2]) for i in range(5 * MAX_PER_ID)]
    if first == "prediction":
        w.join(prediction("a", "x"))
    for i, one in enumerate(storm):
        w.send(one)
        if i % 50 == 0:
            w.batch()
    w.batch()
    w.join(prediction("a", "x"))
    assert [o.revision for o in w.outcomes] == list(range(MAX_PER_ID))
    assert {o.seq for o in w.outcomes} == {0}
    assert len(w.dead_letters) == w.totals()["dead"] == 4 * MAX_PER_ID
    assert all("labels of one id" in letter.reason for letter in w.dead_letters)


@pytest.mark.parametrize(
    ("said", "stands"),
    [
        ([("user", "x"), ("expert", "y"), ("system", "z"), ("user", "x"), ("unknown", "z")], ["x", "y"]),
        ([("user", "x"), ("expert", "x"), ("system", "y")], ["x"]),
        ([("system", "x"), ("system", "y"), ("user", "z")], ["x", "y"]),
        ([("intern", "x"), ("bot", "y"), ("user", "z"), ("intern", "x")], ["x", "y", "z"]),
        ([("expert", "x"), ("expert", "x"), ("expert", "y")], ["x", "y"]),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_sources_that_disagree(
    w: JoinWorld, said: list[tuple[str, str]], stands: list[str], early: bool
) -> None:
    if not early:
        w.join(prediction("a", "x"))
    for source, value in said:
        w.join(label("a", value, source=source))
    if early:
        w.join(prediction("a", "x"))
    assert [o.label for o in w.outcomes] == stands
    assert w.totals()["corrected"] == len(stands) - 1
    assert w.totals()["duplicate"] == len(said) - len(stands)


def test_every_case_of_the_page_has_the_test_that_it_names() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named = re.search(r"(?:`(tests/[\w/]+\.py)`: )?`(test_\w+)` \|$", row)
        assert named is not None, row
        file = ROOT / named[1] if named[1] else Path(__file__)
        assert f"def {named[2]}(" in file.read_text("utf-8"), row
