"""Names in other spellings than the known ones, read by what all spellings of a name have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

Meaning = str | Decimal

MAX_KEPT = 4_096


class Spellings(dict[str, str | None]):
    """Name → the known name that it means, None if it means none. Any name may be looked up. Thread safe.

    Each is read once, since those that come are few, and of too many only the first are kept.
    """

    def __init__(
        self,
        known: Iterable[str],
        by_meaning: Mapping[Meaning, str | None],
        meaning: Callable[[str], Meaning | None],
        max_chars: int,
    ) -> None:
        """``meaning``: of a name, None where it has one spelling only, like all longer than ``max_chars``."""
        super().__init__((name, name) for name in known)
        self._by_meaning, self._meaning, self._max_chars = by_meaning, meaning, max_chars

    def __missing__(self, name: str) -> str | None:
        if len(name) > self._max_chars:
            return None
        meaning = self._meaning(name)
        found = None if meaning is None else self._by_meaning.get(meaning)
        if len(self) < MAX_KEPT:
            self[name] = found
        return found

    def name_of(self, name: str) -> str:
        """Return the known name that a name means, or else the name."""
        found = self[name]
        return name if found is None else found
