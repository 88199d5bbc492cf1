"""Durations as people write them: ``"30s"``, ``"10m"``, ``"24h"``, ``"7d"``; kept as milliseconds."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
LONGEST_MS = 1_000 * 366 * 86_400_000
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")


def parse_duration_ms(value: object) -> object:
    """``"90s"`` → 90000. Whole numbers are taken as milliseconds."""
    if isinstance(value, str):
        match = _PATTERN.match(value)
        if match is None:
            raise ValueError('write a duration as a number and a unit: "30s", "10m", "24h" or "7d"')
        milliseconds = float(match.group(1)) * _UNITS_MS[match.group(2)]
        if milliseconds > LONGEST_MS:
            raise ValueError("no duration is longer than a thousand years")
        return round(milliseconds)
    return value


DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), Field(ge=0, le=LONGEST_MS)]
