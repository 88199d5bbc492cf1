"""The names of a feature's values, the same in references, in what is live, in segments and under a hash.

A value's name is its class name (``base.class_name``): 1, 1.0 and "1" are one value. Flags have two spellings
beside that: true is 1 and false is 0, where a feature is declared a bool or a number, or where it knows no
other values than those two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .base import ClassValue, class_name
from .serving import FeatureType

FLAGS = ("false", "true")
_AS_FLAGS: Mapping[str, str] = {"0": "false", "1": "true"}
_AS_NUMBERS: Mapping[str, str] = {"false": "0", "true": "1"}
_NO_OTHERS: Mapping[str, str] = {}


def other_spellings(names: Collection[str]) -> Mapping[str, str]:
    """Return which further name means which of a feature's known values: for a flag, those of 1 and 0."""
    known = frozenset(names)
    if known and known.issubset(FLAGS):
        return _AS_FLAGS
    return _AS_NUMBERS if known == frozenset(_AS_FLAGS) else _NO_OTHERS


def value_name(value: ClassValue, declared: FeatureType | None) -> str:
    """Return the name of a value of a feature of this type; None: nobody has declared it."""
    name = class_name(value)
    if declared == "bool":
        return _AS_FLAGS.get(name, name)
    return _AS_NUMBERS[name] if declared == "number" and isinstance(value, bool) else name
