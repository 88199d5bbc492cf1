"""The ``ts`` of predictions and labels: Unix milliseconds, and what else a number surely is.

Seconds are also a number of milliseconds, in January 1970, and microseconds one in the far future. Accepted,
they would put a service's rows before all others, whatever their age: so a number that is a time between
1973 and 2100 in another unit is refused, and the reason names the unit; likewise the digits of a date.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field

from ..base import END_OF_TIME_MS

_FIRST_S, _LAST_S = 100_000_000, 4_102_444_800  # 1973-03-03, 2100-01-01
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEEDED = "must be Unix time in whole milliseconds"


class _Unit(NamedTuple):
    name: str
    per_s: int
    cure: str


_SECONDS = _Unit("seconds", 1, "multiply it by 1000")
_OTHERS = (
    _SECONDS,
    _Unit("microseconds", 1_000_000, "divide it by 1000"),
    _Unit("nanoseconds", 1_000_000_000, "divide it by 1,000,000"),
)
# Between these, a number is certainly milliseconds: what needs no closer look.
CERTAINLY_MS = _LAST_S
CERTAINLY_BELOW_MS = 19_000_000_000_000  # the year 2572, and below the digits of any date and time since 1900


def event_time_problem(ts: object) -> str | None:
    """What is wrong with a ``ts`` and what to do, as the end of a sentence about it; None: nothing."""
    if type(ts) is int:
        as_date = _digits_of_date(ts)
        if as_date is not None:
            return f"is a date in digits, not in milliseconds: {_ms_of(as_date)} for this"
        unit = _other_unit(ts)
        if unit is not None:
            when = _EPOCH + timedelta(seconds=ts // unit.per_s)
            return f"is in {unit.name} ({when:%Y-%m-%d %H:%M:%S} UTC), not in milliseconds: {unit.cure}"
        return None if 0 <= ts < END_OF_TIME_MS else _NEEDED
    if isinstance(ts, datetime):
        return f"{_NEEDED}: int(ts.timestamp() * 1000)"
    if type(ts) is float and math.isfinite(ts):
        return _NEEDED + (": int(ts * 1000)" if _other_unit(ts) is _SECONDS else ": round it")
    if isinstance(ts, str):
        return f"{_NEEDED}, as a number{_as_number(ts)}"
    return _NEEDED


def _other_unit(ts: float) -> _Unit | None:
    """Return the unit in which a number is a time between 1973 and 2100; None: in none but milliseconds."""
    return next((unit for unit in _OTHERS if _FIRST_S * unit.per_s <= ts < _LAST_S * unit.per_s), None)


def _as_number(text: str) -> str:
    """Return what to send instead of a text: the number itself, or the one of an ISO 8601 time."""
    if text.isascii() and text.isdigit():
        return " without quotes"
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return f": {_ms_of(when)} for this"


def _ms_of(when: datetime) -> int:
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (when - _EPOCH) // timedelta(milliseconds=1)


def _digits_of_date(number: int) -> datetime | None:
    """Return the date or time between 1973 and 2100 whose digits a number shows: 20231114, 20231114221320."""
    form = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}.get(len(str(number))) if 0 < number < 10**14 else None
    if form is None:
        return None
    try:
        when = datetime.strptime(str(number), form)
    except ValueError:
        return None
    return when if 1973 <= when.year <= 2100 else None


def _event_time(value: object) -> object:
    problem = event_time_problem(value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _whole(value: object) -> object:
    return value if type(value) is int else _event_time(value)


WholeMs = Annotated[int, BeforeValidator(_whole)]
"""A whole number, which the event that it goes into checks further."""
EventTimeMs = Annotated[
    int,
    Field(ge=0, lt=END_OF_TIME_MS, description="Unix time in milliseconds"),
    BeforeValidator(_event_time),
]
