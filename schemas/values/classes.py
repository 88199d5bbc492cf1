"""Which of its declared classes a model's label or answer names, however it is spelled.

A class that is named exactly (``schemas.base.class_name``: 1, 1.0 and "1" are one name) is that class. Other
spellings are read where only one class can be meant:

- Letters count without their case, without spaces around them, and in any of Unicode's forms (NFKC).
- Numbers count by value: "1.0", "1e0" and 1. "007" is a name, as everywhere.
- true is 1 and false is 0 where the classes are those two, and no other class is a number.

Where two classes differ in spelling alone ("1" and "1.0", "True" and "true", "1" and "true"), all of that
model's labels must name their class exactly.

Of a model that declares none, a label and an answer are one class where both are one number, or true and 1
(``are_one_class``); what is trained of them has one of their spellings (``one_spelling``). Letters count with
their case there: "a" and "A" may be two classes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache, partial

from ..base import ClassValue, class_name
from ..reasons.shortened import shortened
from .spellings import MAX_KEPT, Meaning, Spellings
from .text import ZERO_AND_ONE, decimal_of

_MAX_READ_CHARS = 1_000  # a longer text is a class only by its exact name
_MAX_SHOWN = 20
_MAX_SHOWN_CHARS = 80


class Classes:
    """The declared classes of one model. Thread safe.

    ``of_name``: name of a value → the class it means, None if it means none; any name may be looked up.
    ``are_exact``: two differ in spelling alone. ``name_numbers``: one of them is a number.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.declared = frozenset(names)
        meanings = {_meaning(name, truths=True) for name in self.names}
        self.are_exact = len(meanings) < len(self.names)
        truths = {one for one in meanings if isinstance(one, Decimal)} == ZERO_AND_ONE
        meaning = partial(_meaning, truths=truths)
        by_meaning = {} if self.are_exact else {meaning(name): name for name in self.names}
        self.of_name = Spellings(self.names, by_meaning, meaning, _MAX_READ_CHARS)
        self.name_numbers = any(isinstance(_meaning(name, truths=False), Decimal) for name in self.names)

    @staticmethod
    @lru_cache(maxsize=256)
    def of(names: tuple[str, ...]) -> Classes:
        """Return the classes of these names: the same object each time, with what it has read before."""
        return Classes(names)

    def read(self, value: ClassValue) -> str | None:
        """Return the class that the value means; None if it means none."""
        return self.of_name[class_name(value)]

    def class_of(self, name: str) -> str:
        """Return the class that a name means, or else the name."""
        return self.of_name.name_of(name)

    def why_none(self, value: ClassValue, whose: str) -> str:
        """Say that the value means no class. ``whose``: e.g. the model's name."""
        names = ", ".join(map(_shown, self.names[:_MAX_SHOWN]))
        if len(self.names) > _MAX_SHOWN:
            names += f" … ({len(self.names)} in all)"
        exactly = ", spelled exactly: two of them differ in spelling alone" if self.are_exact else ""
        return f"{_shown(value)} is not one of the classes of {whose} ({names}{exactly})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Classes) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Classes({self.names!r})"


def are_one_class(one: str, other: str) -> bool:
    """Whether two names that nobody declared surely mean one class."""
    return one == other or _undeclared(one) == _undeclared(other)


def one_spelling(names: Iterable[str], preferred: Iterable[str] = ()) -> dict[str, str]:
    """Return for each name the one to use among those that mean the same (``are_one_class``).

    ``names`` of all rows: the most frequent spelling, then the first by name; ``preferred`` ones before.
    """
    counts = Counter(names)
    chosen = {_undeclared(name): name for name in reversed(tuple(preferred))}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        chosen.setdefault(_undeclared(name), name)
    return {name: chosen[_undeclared(name)] for name in counts}


def _undeclared(name: str) -> Meaning:
    return name if len(name) > _MAX_READ_CHARS else _undeclared_meaning(name)


@lru_cache(maxsize=MAX_KEPT)
def _undeclared_meaning(name: str) -> Meaning:
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    meaning = _meaning(plain, truths=True)
    return meaning if isinstance(meaning, Decimal) else plain


def _meaning(name: str, *, truths: bool) -> Meaning:
    """Return what all spellings of a name have in common. ``truths``: true and 1 are one, false and 0."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    text = " ".join(unicodedata.normalize("NFKC", folded).split())
    number = decimal_of(text, truths=truths)
    return text if number is None else number


def _shown(value: ClassValue) -> str:
    return shortened(repr(value), _MAX_SHOWN_CHARS)
