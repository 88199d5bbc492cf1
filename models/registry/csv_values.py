"""What a value in a CSV file means: the same in references, bulk requests and bulk labels."""

from __future__ import annotations

_MOST_DIGITS = 20  # of 64 bits

TRUE_FALSE = {"true": True, "false": False}


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
