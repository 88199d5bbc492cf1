"""The first problem of a validation error as one line that a person can act on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .not_json import why_not_json
from .shortened import shortened

_MOST_SHOWN, _MOST_SHOWN_OF_VALUE = 200, 80
_PLAIN = frozenset({"bool", "int", "float", "str"})  # how pydantic names a union's members
_ENVELOPES = (
    (frozenset({"schema", "payload"}), "Connect's envelope", "set schemas.enable=false in its JsonConverter"),
    (frozenset({"specversion", "data"}), "a CloudEvent", "send its data alone"),
    (frozenset({"before", "after", "op"}), "a Debezium change", "send the row alone (ExtractNewRecordState)"),
)


def first_reason(name: str, error: ValidationError) -> str:
    """Name the first field that is wrong, what it held and what it should hold.

    ``name``: of what was validated.
    """
    problems = error.errors(include_url=False, include_context=False)
    problem = problems[0]
    message = problem["msg"].removeprefix("Value error, ")
    loc, given = problem["loc"], cast("object", problem["input"])
    shown = shortened(repr(given), _MOST_SHOWN_OF_VALUE)
    if problem["type"] == "value_error" and not loc:
        return f"{name}: {message}"  # of the fields together: no single value is wrong
    if problem["type"] == "json_invalid" and isinstance(given, bytes | str):
        return f"{name}: the record: {message}; {why_not_json(given, message)}"
    if _is_of_no_plain_type(problems):
        loc, message = loc[:-1], _not_plain(given)
    elif problem["type"] == "missing" and isinstance(given, dict):
        message += _envelope(frozenset(map(str, cast("dict[object, object]", given))))
    elif problem["type"] == "model_type" and not loc:
        message += _no_object(given)
    where = shortened(".".join(str(part) for part in loc) or "the record", _MOST_SHOWN)
    return f"{name}: {where}: {message} (got {shown})"


def _is_of_no_plain_type(problems: Sequence[ErrorDetails]) -> bool:
    """Whether the first problem is a value that is neither number, text nor boolean."""
    place = problems[0]["loc"][:-1]
    tried = [problem["loc"][-1] for problem in problems if problem["loc"][:-1] == place and problem["loc"]]
    return len(tried) > 1 and _PLAIN.issuperset(map(str, tried))


def _not_plain(value: object) -> str:
    needed = "it must be a number, text, true, false or null"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinity are no JSON numbers: send null where a value is missing"
    if isinstance(value, list):
        return f"a list, and {needed}: send each element by a name of its own"
    if isinstance(value, dict):
        return f"an object, and {needed}: send each of its values by a name of its own"
    return needed


def _envelope(names: frozenset[str]) -> str:
    for keys, what, cure in _ENVELOPES:
        if keys <= names:
            return f"; this is {what}: {cure}"
    return ""


def _no_object(value: object) -> str:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return ", and this is one within a text: it was encoded twice"
    if isinstance(value, list):
        return ", and this is a list: send one record for each element"
    return ""
