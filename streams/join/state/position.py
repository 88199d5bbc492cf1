"""Where in the log a state stands: the part of it that is committed with every transaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from ....schemas.topics import LABELS, PREDICTIONS, Topic
from .books import Account, Books

BUCKET_MS = 1000
INPUTS = (PREDICTIONS, LABELS)


def bucket_of(deadline_ms: int) -> int:
    """Return the bucket that is over once a watermark has passed ``deadline_ms``."""
    return deadline_ms // BUCKET_MS + 1


class Offsets(NamedTuple):
    """An offset of each input topic."""

    predictions: int
    labels: int

    def __str__(self) -> str:
        return f"{self.predictions} of predictions and {self.labels} of labels"


class Watermarks(NamedTuple):
    """Per input topic: append time up to which it was read, or is known to be idle."""

    predictions_ms: int = 0
    labels_ms: int = 0

    def of(self, topic: Topic) -> int:
        return self.predictions_ms if topic is PREDICTIONS else self.labels_ms

    def advanced(self, topic: Topic, time_ms: int) -> Watermarks:
        """Return these with the topic's at ``time_ms``."""
        if topic is PREDICTIONS:
            return self._replace(predictions_ms=time_ms)
        return self._replace(labels_ms=time_ms)


NO_WATERMARKS = Watermarks()


class ExpiryWatermark(NamedTuple):
    """The last bucket whose predictions have expired, and the last whose labels have."""

    predictions: int
    labels: int

    def at_least(self, other: ExpiryWatermark) -> ExpiryWatermark:
        return ExpiryWatermark(max(self.predictions, other.predictions), max(self.labels, other.labels))

    def at_most(self, other: ExpiryWatermark) -> ExpiryWatermark:
        return ExpiryWatermark(min(self.predictions, other.predictions), min(self.labels, other.labels))


class Position(NamedTuple):
    """Where in the log a state stands, and what else its future depends on.

    ``predictions`` and ``labels``: the next offsets. ``next_seq``: of the outcomes partition.
    ``predictions_ms`` and ``labels_ms``: the newest append time of each. ``expired_…``: the bucket up to
    which everything has expired and was announced. ``replay_outcomes_from_ms``: a restoration is under way,
    and outcomes appended since then have not been replayed yet; 0: none is under way. ``books``: of all that
    was read before it; None: unknown.
    """

    predictions: int = 0
    labels: int = 0
    next_seq: int = 0
    predictions_ms: int = 0
    labels_ms: int = 0
    expired_predictions: int = 0
    expired_labels: int = 0
    replay_outcomes_from_ms: int = 0
    books: Books | None = Books()

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Position:
        """Undo ``numbers``. Raises ValueError if there are more or fewer of them."""
        own, account = len(cls._fields) - 1, len(Account._fields)
        if len(numbers) == own:
            return cls(*numbers, books=None)
        if len(numbers) != own + 2 * account:
            raise ValueError(f"a position has {own} or {own + 2 * account} numbers, not {len(numbers)}")
        predictions, labels = numbers[own : own + account], numbers[own + account :]
        return cls(*numbers[:own], books=Books(Account(*predictions), Account(*labels)))

    def numbers(self) -> list[int]:
        """Return all of it as a list, for the disk and for what is committed."""
        *own, books = self
        return [*own, *chain.from_iterable(books or ())]

    @property
    def offsets(self) -> Offsets:
        return Offsets(self.predictions, self.labels)

    def next_offset(self, topic: Topic) -> int:
        return self.predictions if topic is PREDICTIONS else self.labels

    @property
    def expired(self) -> ExpiryWatermark:
        return ExpiryWatermark(self.expired_predictions, self.expired_labels)

    def with_expired(self, expired: ExpiryWatermark) -> Position:
        return self._replace(expired_predictions=expired.predictions, expired_labels=expired.labels)

    def watermarks(self, idle: Watermarks = NO_WATERMARKS) -> Watermarks:
        """Return the topics' watermarks; an idle topic's advances without a record."""
        return Watermarks(max(self.predictions_ms, idle.predictions_ms), max(self.labels_ms, idle.labels_ms))

    @property
    def newest_ms(self) -> int:
        return max(self.predictions_ms, self.labels_ms)
