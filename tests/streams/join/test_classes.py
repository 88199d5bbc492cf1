"""A label counts by the classes that its model declares, in whatever spelling, and is refused by them."""

from __future__ import annotations

import base64
from collections import Counter

import pytest
from driftloop.schemas.base import ClassValue
from driftloop.schemas.spec.model import Join, ModelSpec
from driftloop.schemas.values.classes import Classes
from driftloop.schemas.vitals import ModelVitals

from tests.support.join.world import JoinWorld, label, prediction, rules_of


def world(classes: tuple[str, ...] | None) -> JoinWorld:
    return JoinWorld(rules_of(Join(), m=ModelSpec(classes=classes)), capacity=1_000)


def entries(of: JoinWorld) -> list[ModelVitals]:
    return [entry for message in of.vitals for entry in message.models]


ONE = [1, 1.0, "1", "1.0", " 1", True, "true", "True", "TRUE"]
NOUGHT = [0, 0.0, "0", "0.0", False, "false", "False"]


@pytest.mark.parametrize("names", [("0", "1"), ("1", "0"), ("false", "true"), ("True", "False")])
@pytest.mark.parametrize("truth", ONE + NOUGHT)
@pytest.mark.parametrize("early", [False, True])
def test_a_class_in_any_spelling_is_the_declared_one(
    names: tuple[str, str], truth: ClassValue, early: bool
) -> None:
    classes = Classes.of(names)
    w = world(names)
    if early:
        w.join(label("a", truth))
    w.join(prediction("a", names[0]), label("a", truth), prediction("b", True), label("b", truth))
    expected = classes.read(1 if truth in ONE else 0)
    assert [o.error_value for o in w.outcomes] == [float(names[0] != expected), float(truth not in ONE)]
    assert w.dead_letters == []
    actual = sum((Counter(entry.actual or {}) for entry in entries(w)), Counter())
    assert actual == {expected: 2}
    predicted = sum((Counter(entry.predicted or {}) for entry in entries(w)), Counter())
    assert predicted == Counter([names[0], classes.read(True) or ""])


def test_a_label_in_another_spelling_repeats_and_corrects_nothing() -> None:
    w = world(("late", "on_time"))
    w.join(prediction("a", "Late"), label("a", "late"), label("a", " LATE", source="expert"))
    assert [(o.error_value, o.revision) for o in w.outcomes] == [(0.0, 0)]
    w.join(label("a", "on_time"), label("a", "On_Time", source="expert"))
    assert [(o.label, o.error_value, o.revision) for o in w.outcomes[1:]] == [("On_Time", 1.0, 1)]


@pytest.mark.parametrize("truth", ["lat", "", 1, True, "on time"])
@pytest.mark.parametrize("early", [False, True])
def test_a_label_that_is_no_class_is_refused_with_the_classes(truth: ClassValue, early: bool) -> None:
    w = world(("late", "on_time"))
    if early:
        w.join(label("a", truth))
    w.join(prediction("a", "late"))
    if not early:
        w.join(label("a", truth))
    assert w.outcomes == []
    (letter,) = w.dead_letters
    assert letter.reason == f"Label: label: {truth!r} is not one of the classes of m ('late', 'on_time')"
    assert (letter.topic, base64.b64decode(letter.value_b64 or "")) == ("labels", w.labels[0].value)
    w.join(label("a", "late"))
    w.join(label("a", truth))  # as a correction neither
    assert [o.error_value for o in w.outcomes] == [0.0]
    assert len(w.dead_letters) == 2


def test_an_answer_that_is_no_class_is_wrong_and_kept() -> None:
    w = world(("late", "on_time"))
    w.join(prediction("a", "unknown"), label("a", "late"), prediction("b", 3), label("b", "on_time"))
    assert [o.error_value for o in w.outcomes] == [1.0, 1.0]
    assert w.dead_letters == []


def test_classes_that_differ_in_spelling_alone_stay_apart() -> None:
    w = world(("True", "true"))
    w.join(prediction("a", "True"), label("a", "true"), prediction("b", "True"), label("b", "TRUE"))
    assert [o.error_value for o in w.outcomes] == [1.0]
    assert "spelled exactly" in w.dead_letters[0].reason


def test_a_model_without_declared_classes_takes_labels_as_they_are() -> None:
    w = world(None)
    w.join(prediction("a", "late"), label("a", "Late"))
    assert [o.error_value for o in w.outcomes] == [1.0]


def test_labels_are_read_by_the_classes_as_they_are_when_the_label_is_read() -> None:
    w = world(("late", "on_time"))
    w.join(prediction("a", "Late"), prediction("b", "Late"), prediction("c", "2"), label("a", "late"))
    w.joiner.rules = rules_of(Join(), m=ModelSpec(classes=("LATE", "2.0")))
    w.join(label("b", "late"), label("c", 2))
    assert [o.error_value for o in w.outcomes] == [0.0, 0.0, 0.0]
    w.joiner.rules = rules_of(Join(), m=ModelSpec(task="regression"))
    w.join(prediction("d", 1.5))
    w.joiner.rules = rules_of(Join(), m=ModelSpec(classes=("1", "2")))
    w.join(label("d", 1))
    assert w.outcomes[-1].error_value == 1.0


@pytest.mark.parametrize("disk_lost", [False, True])
def test_outcomes_and_refusals_stay_as_they_were_when_the_classes_change(disk_lost: bool) -> None:
    w = world(None)
    w.join(prediction("a", "late"), label("a", "Late"), prediction("b", "late"))
    w.rules = rules_of(Join(), m=ModelSpec(classes=("x", "y")))
    w.die(disk_lost=disk_lost)
    w.restore()
    w.join(label("a", "Late"), label("b", "Late"))
    assert [(o.prediction_id, o.error_value, o.revision) for o in w.outcomes] == [("a", 1.0, 0)]
    assert [letter.offset for letter in w.dead_letters] == [1, 2]
    w.rules = rules_of(Join(), m=ModelSpec(classes=("late", "on_time")))
    w.die(disk_lost=disk_lost)
    w.restore()
    assert len(w.outcomes) == 1  # nothing that was refused comes to life by a spec of later
    w.join(label("b", "Late"), label("a", "late"), label("a", "on_time"))  # the first as a replay sends it
    assert [(o.prediction_id, o.error_value, o.revision) for o in w.outcomes[1:]] == [
        ("b", 0.0, 0),
        ("a", 1.0, 1),
    ]


@pytest.mark.parametrize("disk_lost", [False, True])
def test_a_crash_forgets_no_stronger_source_of_a_label_that_came_back(disk_lost: bool) -> None:
    w = world(("x", "y"))
    w.join(
        prediction("a", "x"),
        label("a", "y"),
        label("a", "x"),
        label("a", "Y"),
        label("a", "y", source="expert"),
    )
    w.die(disk_lost=disk_lost)
    w.restore()
    w.join(label("a", "x"))
    assert [(o.label, o.revision) for o in w.outcomes] == [("y", 0), ("x", 1), ("Y", 2)]


@pytest.mark.parametrize("crashes", [False, True])
def test_a_label_that_is_no_class_is_refused_once_and_counts_as_no_repeat(crashes: bool) -> None:
    w = world(("x", "y"))
    w.join(label("a", correct=True, source="expert"), label("a", "z"), prediction("a", "x", role="shadow"))
    if crashes:
        w.die()
        w.restore()
    w.join(prediction("a", "x"))
    assert [(o.correct, o.error_value) for o in w.outcomes] == [(True, 0.0)]
    assert [letter.offset for letter in w.dead_letters] == [1]
    assert (w.totals()["duplicate"], w.totals()["dead"]) == (0, 1)


@pytest.mark.parametrize("answer", ["0", "1", "true", 1, False])
@pytest.mark.parametrize("truth", ONE + NOUGHT)
@pytest.mark.parametrize("early", [False, True])
def test_one_truth_in_another_spelling_is_no_error_of_a_model_without_classes(
    answer: ClassValue, truth: ClassValue, early: bool
) -> None:
    w = world(None)
    if early:
        w.join(label("a", truth))
    w.join(prediction("a", answer), label("a", truth))
    assert [o.error_value for o in w.outcomes] == [float((truth in ONE) != (answer in ONE))]
    w.join(label("a", "1.00" if truth in ONE else "0.00"))
    assert [o.revision for o in w.outcomes] == [0]
