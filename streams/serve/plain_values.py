"""A caller's values as plain JSON values: checked by name, numpy scalars converted.

orjson silently writes NaN as null, so numbers are checked here, while the caller can still learn of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Protocol, cast

import numpy as np

from ...schemas.base import ClassValue, FeatureValue
from ...schemas.errors import Error

Plain = FeatureValue
_NAME = frozenset({str})
_FLOATS = frozenset({float})
_SCALARS = frozenset({str, int, float, bool, type(None)})
_PANDAS_MISSING = ("NAType", "NaTType")
_LARGEST_INT = 2**63  # the limit of JSON readers in other languages


class _Scalar(Protocol):
    def item(self) -> object: ...


class InvalidEvent(Error, ValueError):
    """An argument of a prediction or label is not what an event can carry; the message names it.

    ``public`` is the message without the value, which may be of a feature that must not leave the server.
    """

    def __init__(self, message: str, public: str | None = None) -> None:
        self.public = message if public is None else public
        super().__init__(message)


def plain_features(features: Mapping[str, object], what: str = "feature") -> dict[str, Plain]:
    """A copy with plain values. Raises InvalidEvent naming the first one that cannot be sent."""
    if not isinstance(features, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEvent(f"{what}s must be a dict, name → value, got {type(features).__name__}")
    plain = dict(features)
    if _NAME.issuperset(map(type, plain)) and _are_plain(plain):
        return cast("dict[str, Plain]", plain)
    return {_name(what, name): _plain(what, name, value) for name, value in features.items()}


def _are_plain(values: Mapping[str, object]) -> bool:
    """Whether all can certainly be sent as they are: one check of all, which is quicker."""
    if _FLOATS.issuperset(map(type, values.values())):  # as of most models: no list is needed
        total = sum(cast("Mapping[str, float]", values).values())
        return total - total == 0.0
    kinds = set(map(type, values.values()))
    if not _SCALARS.issuperset(kinds):
        return False
    if float in kinds:
        total = sum([value for value in values.values() if type(value) is float])
        if total - total != 0.0:  # there is a NaN or an infinity
            return False
    if int in kinds:
        whole = [value for value in values.values() if type(value) is int]
        return min(whole) >= -_LARGEST_INT and max(whole) < _LARGEST_INT
    return True


def _name(what: str, name: object) -> str:
    if type(name) is not str:
        raise InvalidEvent(f"{what} names must be str, got {name!r}")
    return name


def _plain(what: str, name: str, value: object) -> Plain:
    if (
        type(value) is str
        or (type(value) is float and value - value == 0.0)  # false for NaN and the infinities
        or (type(value) is int and -_LARGEST_INT <= value < _LARGEST_INT)
        or type(value) is bool
        or value is None
    ):
        return value
    return _converted(what, name, value)


def sendable_features(features: Mapping[str, object]) -> dict[str, Plain]:
    """The features that can be sent, for the event of a request that failed because of the others."""
    sendable: dict[str, Plain] = {}
    if not isinstance(features, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        return sendable
    for name, value in features.items():
        try:
            sendable.update(plain_features({name: value}))
        except InvalidEvent:  # raised to the caller already; the event carries the rest
            continue
    return sendable


def plain_class(what: str, value: object) -> ClassValue:
    """A class or a number. Raises InvalidEvent."""
    if type(value) is str:
        return value
    plain = plain_features({what: value}, "argument")[what]
    if plain is None:
        raise InvalidEvent(f"{what} is None")
    return plain


def plain_scores(scores: Mapping[str, object]) -> dict[str, float]:
    """Score per class. Raises InvalidEvent naming the class whose score is not a finite number."""
    if not isinstance(scores, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEvent(f"scores must be a dict, class → score, got {type(scores).__name__}")
    plain: dict[str, float] = {}
    for name, value in scores.items():
        if type(name) is str and type(value) is float and value - value == 0.0:
            plain[name] = value
            continue
        number = plain_features({name: value}, "score")[name]
        if not isinstance(number, int | float):
            raise InvalidEvent(f"score {name}: must be a number, got {value!r}")
        plain[name] = float(number)
    return plain


def _converted(what: str, name: str, value: object) -> Plain:
    scalar = unwrapped(value)
    if scalar is None or isinstance(scalar, str | bool):
        return scalar
    if isinstance(scalar, float):
        if not math.isfinite(scalar):
            raise InvalidEvent(
                f"{what} {name}: is {scalar}; send None (null in JSON) where a value is missing"
            )
        return float(scalar)
    if isinstance(scalar, int):
        if not -_LARGEST_INT <= scalar < _LARGEST_INT:
            public = f"{what} {name}: does not fit into 64 bits; send float(value), or text if it is a name"
            raise InvalidEvent(f"{public} (got {scalar})", public)
        return int(scalar)
    needed = f"{what} {name}: must be a number, text, bool or None, got {type(value).__name__}"
    cure = _cure(value)
    raise InvalidEvent(f"{needed} {str(value)[:40]!r}{cure}", f"{needed}{cure}")


def _cure(value: object) -> str:
    if isinstance(value, Decimal | Fraction):
        return ": send float(value), or str(value) where it is a name"
    if type(value).__name__ in _PANDAS_MISSING:
        return ": send None where a value is missing"
    if isinstance(value, list | tuple | set | np.ndarray):
        return ": send each element by a name of its own"
    if isinstance(value, Mapping):
        return ": send each of its values by a name of its own"
    if isinstance(value, bytes | bytearray):
        return ": decode it, or send its base64 as text"
    if isinstance(value, date | timedelta):
        return ": send a number, such as seconds, or text"
    return ""


def unwrapped(value: object) -> object:
    """Return Python's own value of a numpy scalar, or of an array without dimensions; others as they are."""
    if isinstance(value, np.ndarray):
        return cast("_Scalar", value).item() if value.ndim == 0 else cast("object", value)
    if not isinstance(value, np.generic):
        return value
    item = cast("_Scalar", value).item()
    return float(cast("float", item)) if isinstance(item, np.generic) else item  # a longdouble's is itself
