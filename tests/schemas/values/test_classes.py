"""One class in many spellings is one class; what could be two, or none, is not guessed."""

from __future__ import annotations

import pytest
from driftloop.schemas.base import ClassValue, class_name
from driftloop.schemas.values.classes import Classes, are_one_class, one_spelling
from hypothesis import given
from hypothesis import strategies as st

ONE_SPELLINGS: list[ClassValue] = [
    1,
    1.0,
    "1",
    "1.0",
    "1.",
    "+1",
    "1e0",
    " 1 ",
    "１",
    True,
    "true",
    "True",
    "TRUE ",
]


@pytest.mark.parametrize("names", [("0", "1"), ("false", "true"), ("False", "True"), ("0.0", "1.0")])
@pytest.mark.parametrize("value", ONE_SPELLINGS)
def test_one_and_true_are_one_class_where_there_are_two(names: tuple[str, str], value: ClassValue) -> None:
    assert Classes(names).read(value) == names[1]
    assert Classes(names[::-1]).read(value) == names[1]


@pytest.mark.parametrize("value", [0, 0.0, -0.0, "0", "0.00", "-0", False, "False", "false"])
def test_nothing_and_false_are_one_class_where_there_are_two(value: ClassValue) -> None:
    assert Classes(("0", "1")).read(value) == "0"
    assert Classes(("false", "true", "unknown")).read(value) == "false"


@pytest.mark.parametrize(
    ("names", "value", "meant"),
    [
        (("late", "on_time"), "Late", "late"),
        (("late", "on_time"), "  LATE\n", "late"),
        (("Late", "on time"), "On  Time", "on time"),
        (("caf\u00e9", "bar"), "CAFE\u0301", "caf\u00e9"),
        (("straße", "weg"), "STRASSE", "straße"),
        (("1", "2", "10"), 10.0, "10"),
        (("1", "2", "10"), "2.0", "2"),
        (("0.1", "0.2"), "0.10", "0.1"),
        (("9007199254740993", "9007199254740992"), "9007199254740993.0", "9007199254740993"),
        (("-1", "1"), -1.0, "-1"),
        (("0", "1", "unknown"), True, "1"),
    ],
)
def test_another_spelling_is_read(names: tuple[str, ...], value: ClassValue, meant: str) -> None:
    assert Classes(names).read(value) == meant


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("late", "on_time"), "lat"),
        (("late", "on_time"), "on-time"),
        (("late", "on_time"), ""),
        (("late", "on_time"), True),
        (("yes", "no"), True),
        (("0", "1"), 2),
        (("0", "1"), "nan"),
        (("0", "1"), 0.5),
        (("0", "1"), "yes"),
        (("1", "2"), True),
        (("0", "1", "2"), True),
        (("true", "maybe"), 1),
        (("007", "008"), 7),
        (("7", "8"), "007"),
        (("a", "b"), "1e99999999999"),
        (("a", "b"), "a" * 100_000),
    ],
)
def test_what_is_no_class_or_could_be_two_is_none(names: tuple[str, ...], value: ClassValue) -> None:
    assert Classes(names).read(value) is None


@pytest.mark.parametrize(
    "names", [("1", "1.0"), ("True", "true"), ("0", "1", "true"), ("a", "A", "b"), ("a", " a")]
)
def test_classes_that_differ_in_spelling_alone_are_named_exactly(names: tuple[str, ...]) -> None:
    classes = Classes(names)
    assert [classes.read(name) for name in names] == list(names)
    for value in ("1.00", "TRUE", "0.0", "B", "a "):
        assert classes.read(value) is None
    assert "spelled exactly" in classes.why_none("TRUE", "m")


def test_a_refusal_names_the_value_and_the_classes() -> None:
    assert Classes(("late", "on_time")).why_none("Lat", "flights") == (
        "'Lat' is not one of the classes of flights ('late', 'on_time')"
    )
    many = Classes(tuple(f"c{i}" for i in range(500))).why_none("x" * 1_000_000, "m")
    assert "(500 in all)" not in many[:80]
    assert "… (500 in all)" in many
    assert len(many) < 400


@given(st.lists(st.text(max_size=6), min_size=2, max_size=6, unique=True), st.text(max_size=6))
def test_a_class_is_always_itself_and_a_reading_is_stable(names: list[str], value: str) -> None:
    classes = Classes(tuple(names))
    assert [classes.read(name) for name in names] == names
    found = classes.read(value)
    assert found is None or found in names
    assert classes.read(value) == found == Classes(tuple(names)).read(value)


@given(st.integers(-(10**30), 10**30) | st.floats(-(2**53), 2**53))  # beyond, a float's repr is rounded
def test_every_number_is_read_by_its_value(value: float) -> None:
    name = class_name(value)
    other = "other"
    for spelled in (repr(value), f" {value!r}", repr(value).upper()):
        assert Classes((name, other)).read(spelled) == name


def test_readings_take_bounded_memory() -> None:
    classes = Classes(("a", "b"))
    for number in range(10_000):
        assert classes.read(f"x{number}") is None
    assert len(classes.of_name) <= 4_096
    assert classes.read(" A") == "a"


def test_an_empty_name_can_be_a_class() -> None:
    assert Classes(("", "x")).read("  ") == ""


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        ("1", "1.0", True),
        ("true", "1", True),
        ("True ", "1.0", True),
        ("late", " late", True),
        ("a", "A", False),  # of letters, both may be classes
        ("007", "7", False),
        ("late", "on_time", False),
        ("1", "0", False),
    ],
)
def test_undeclared_names_are_one_class_where_they_surely_are(one: str, other: str, are: bool) -> None:
    assert are_one_class(one, other) == are_one_class(other, one) == are


def test_one_spelling_is_the_preferred_one_or_else_the_most_frequent() -> None:
    names = ["1.0", "true", "true", "0", "x"]
    assert one_spelling(names) == {"1.0": "true", "true": "true", "0": "0", "x": "x"}
    assert one_spelling(names, ("0.0", "1")) == {"1.0": "1", "true": "1", "0": "0.0", "x": "x"}
