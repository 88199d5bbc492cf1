"""What to do about a CSV file that does not read: in references, bulk requests and bulk labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...schemas.values.text import number_of

_MISSING = frozenset({"nan", "na", "n/a", "null", "none", "nil", "-", "?", "."})
_OTHER_MARKS = (";", "\t", "|")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


def number_cure(text: str) -> str:
    """Return what to write instead of a text among numbers; empty where that is not known."""
    bare = text.strip()
    if bare.lower() in _MISSING:
        return "leave a cell empty where a value is missing"
    if _DECIMAL_COMMA.fullmatch(bare):
        return "write numbers with a decimal point"
    return "leave out the spaces around it" if number_of(bare) is not None else ""


def header_cure(header: Sequence[str], wanted: str) -> str:
    """Return what to do about a header without a wanted column; empty where that is not known."""
    for mark in _OTHER_MARKS:
        if any(wanted in name.split(mark) for name in header):
            return f"its columns are separated by {mark!r}: save it with commas"
    if wanted.casefold() in (name.strip().casefold() for name in header):
        return "write its name without spaces, and letter by letter as it is asked for"
    return ""
