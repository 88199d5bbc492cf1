"""The names of a feature's values, the same in references, in what is live, in segments and under a hash.

A value's name is its class name (``base.class_name``): 1, 1.0 and "1" are one value. Flags have two spellings
beside that: true is 1 and false is 0, where a feature is declared a bool or a number, or where it knows no
other values than those two.

Where the known values are at hand (``KnownValues``), what is none of them by name is read once more: "1.0" by
its number, and "True" as true, as pandas and Python's str write them. "007" is a name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal

from ..base import ClassValue, class_name
from ..serving import FeatureType
from .classes import number_named

FLAGS = ("false", "true")
_AS_FLAGS: Mapping[str, str] = {"0": "false", "1": "true"}
_AS_NUMBERS: Mapping[str, str] = {"false": "0", "true": "1"}
_TRUTHS: Mapping[str, Decimal] = {"false": Decimal(0), "true": Decimal(1)}
_MAX_READ_CHARS = 100  # a longer text is a value by its exact name alone
_MAX_KEPT = 4_096


class KnownValues(dict[str, str | None]):
    """Name of a live value → the known value that it is, None if it is none. Any name may be looked up.

    What could be two of them is none: "1.00" where "1" and "1.0" are known.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(zip(names, names, strict=True))
        meanings = {_meaning(name, flags=False) for name in names}
        words = bool(meanings) and meanings.issubset(FLAGS)
        self._flags = words or meanings == set(_TRUTHS.values())
        self._by_meaning: dict[str | Decimal, str | None] = {}
        for name in names:
            meaning = _meaning(name, flags=self._flags)
            if meaning is not None:
                self._by_meaning[meaning] = None if meaning in self._by_meaning else name

    def __missing__(self, name: str) -> str | None:
        if len(name) > _MAX_READ_CHARS:
            return None
        meaning = _meaning(name, flags=self._flags)
        found = None if meaning is None else self._by_meaning.get(meaning)
        if len(self) < _MAX_KEPT:
            self[name] = found
        return found

    def numbers(self) -> dict[float, str]:
        """Return which known value a number is."""
        return {
            float(meaning): name
            for meaning, name in self._by_meaning.items()
            if isinstance(meaning, Decimal) and name is not None
        }


def flag_names(names: Collection[str]) -> Mapping[str, str]:
    """Return true or false for each name of a flag that comes both as words and as 1 and 0; else nothing."""
    meanings = {name: _meaning(name, flags=True) for name in names}
    words = [_meaning(name, flags=False) in FLAGS for name in names]
    if not any(words) or all(words) or not set(meanings.values()) <= set(_TRUTHS.values()):
        return {}
    return {name: FLAGS[meaning == _TRUTHS["true"]] for name, meaning in meanings.items()}


def value_name(value: ClassValue, declared: FeatureType | None) -> str:
    """Return the name of a value of a feature of this type; None: nobody has declared it."""
    name = class_name(value)
    if declared == "bool":
        return _AS_FLAGS.get(name, name)
    return _AS_NUMBERS[name] if declared == "number" and isinstance(value, bool) else name


def _meaning(name: str, *, flags: bool) -> str | Decimal | None:
    """Return what all spellings of a name have in common, None if there are no others."""
    text = name.strip()
    number = number_named(text)
    if number is not None:
        return number
    word = text.lower()
    return (_TRUTHS[word] if flags else word) if word in FLAGS else None
