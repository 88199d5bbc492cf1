"""What a text means as a number, or as true or false. "007" and "1_000" are names, here and everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Set
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_MOST_DIGITS = 20  # of a whole number of 64 bits, with its sign

TRUE_FALSE = {"false": False, "true": True}
_TRUTHS = {word: Decimal(value) for word, value in TRUE_FALSE.items()}
ZERO_AND_ONE: Set[object] = frozenset(_TRUTHS.values())


def number_of(text: str) -> int | float | None:
    """Return the finite number that a text writes, within 64 bits if it is whole; None of any other text."""
    if not _NUMBER.fullmatch(text):
        return None
    if text.lstrip("+-").isdigit():
        number = int(text) if len(text) <= _MOST_DIGITS else math.inf
        return number if -(2**63) <= number < 2**63 else None
    number = float(text)
    return number if math.isfinite(number) else None


def decimal_of(text: str, *, truths: bool = False) -> Decimal | None:
    """Return the number that a text writes, of any size. ``truths``: true is 1 and false is 0."""
    if _NUMBER.fullmatch(text):
        return Decimal(text)
    return _TRUTHS.get(text) if truths else None
