"""A text is a number only where it is written as numbers are."""

from __future__ import annotations

from driftloop.schemas.base import class_name
from driftloop.schemas.values.text import number_of
from hypothesis import given
from hypothesis import strategies as st


@given(st.one_of(st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_written_plainly_is_that_number(number: float) -> None:
    assert number_of(str(number)) == number


@given(st.text(max_size=12))
def test_text_taken_for_a_number_still_names_its_class_or_is_one(text: str) -> None:
    number = number_of(text)
    assert number is None or class_name(number) == text or float(text) == number


def test_what_only_looks_like_a_number_stays_text() -> None:
    for text in (
        "007",
        "-01",
        "1_000",
        " 1",
        "1 ",
        "٣",
        "nan",
        "inf",
        "-inf",
        "",
        "0x10",
        "1e999",
        "--1",
        "00.5",
    ):
        assert number_of(text) is None, text
    assert [number_of(text) for text in ("0", "-5", "1.50", "1e3", "-0")] == [0, -5, 1.5, 1000.0, 0]
