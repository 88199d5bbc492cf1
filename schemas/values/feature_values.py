"""The names of a feature's values, the same in references, in what is live, in segments and under a hash.

A value's name is its class name (``base.class_name``): 1, 1.0 and "1" are one value. Flags have two spellings
beside that: true is 1 and false is 0, where a feature is declared a bool or a number, or where it knows no
other values than those two.

Where the known values are given (``KnownValues``), other spellings of them are read: "1.0" by its number, and
"True" as true, as pandas and Python's str write them. "007" is a name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from functools import partial

from ..base import ClassValue, class_name
from ..serving import FeatureType
from .spellings import Meaning, Spellings
from .text import TRUE_FALSE, ZERO_AND_ONE, decimal_of

FLAGS = tuple(TRUE_FALSE)
_AS_FLAGS: Mapping[str, str] = {"0": "false", "1": "true"}
_AS_NUMBERS: Mapping[str, str] = {"false": "0", "true": "1"}
_MAX_READ_CHARS = 100  # a longer text is a value by its exact name alone


class KnownValues(Spellings):
    """Name of a live value → the known value that it is. "1.00" is None where "1" and "1.0" are known."""

    def __init__(self, names: Collection[str]) -> None:
        meanings = {_meaning(name, flags=False) for name in names}
        words = bool(meanings) and meanings.issubset(FLAGS)
        meaning_of = partial(_meaning, flags=words or meanings == ZERO_AND_ONE)
        by_meaning: dict[Meaning, str | None] = {}
        for name in names:
            meaning = meaning_of(name)
            if meaning is not None:
                by_meaning[meaning] = None if meaning in by_meaning else name
        super().__init__(names, by_meaning, meaning_of, _MAX_READ_CHARS)

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
    if not any(words) or all(words) or not set(meanings.values()) <= ZERO_AND_ONE:
        return {}
    return {name: FLAGS[meaning == 1] for name, meaning in meanings.items()}


def value_name(value: ClassValue, declared: FeatureType | None) -> str:
    """Return the name of a value of a feature of this type; None: nobody has declared it."""
    name = class_name(value)
    if declared == "bool":
        return _AS_FLAGS.get(name, name)
    return _AS_NUMBERS[name] if declared == "number" and isinstance(value, bool) else name


def _meaning(name: str, *, flags: bool) -> Meaning | None:
    """Return what all spellings of a name have in common, None if there are no others."""
    text = name.strip().lower()
    number = decimal_of(text, truths=flags)
    if number is not None:
        return number
    return text if text in TRUE_FALSE else None
