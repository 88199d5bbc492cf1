"""What a value in a CSV file means: the same in references, bulk requests and bulk labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MOST_DIGITS = 20  # of 64 bits

TRUE_FALSE = {"true": True, "false": False}
_MISSING = frozenset({"nan", "na", "n/a", "null", "none", "nil", "-", "?", "."})
_OTHER_MARKS = (";", "\t", "|")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


def number_of(text: str) -> int | float | None:
    """A finite number, written as numbers are; None otherwise: "007" and "1_000" are names."""
    if not text.isascii() or "_" in text or text != text.strip():
        return None
    digits = text.removeprefix("-")
    if digits.isdigit():
        if len(digits) > _MOST_DIGITS or (digits != "0" and digits.startswith("0")):
            return None
        number = int(text)
        return number if -(2**63) <= number < 2**63 else None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number - number == 0.0 else None


def number_cure(text: str) -> str:
    """What to write instead of a text among numbers; empty where that is not known."""
    bare = text.strip()
    if bare.lower() in _MISSING:
        return "leave a cell empty where a value is missing"
    if _DECIMAL_COMMA.fullmatch(bare):
        return "write numbers with a decimal point"
    return "leave out the spaces around it" if number_of(bare) is not None else ""


def header_cure(header: Sequence[str], wanted: str) -> str:
    """What to do about a header without a wanted column; empty where that is not known."""
    for mark in _OTHER_MARKS:
        if any(wanted in name.split(mark) for name in header):
            return f"its columns are separated by {mark!r}: save it with commas"
    if wanted.casefold() in (name.strip().casefold() for name in header):
        return "write its name without spaces, and letter by letter as it is asked for"
    return ""
