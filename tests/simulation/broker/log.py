"""The log of one partition: records and markers, the last stable offset, and what idempotence refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError

OK = 0


class SentRecord(NamedTuple):
    """What a client sends as one record."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None = None


@dataclass(slots=True, eq=False)
class Fate:
    """What becomes of a transaction, by its client's own number for it: None while it is open."""

    transaction: int
    committed: bool | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """A record, or the marker of a transaction (``sent`` None)."""

    offset: int
    append_ms: int
    sent: SentRecord | None
    fate: Fate | None = None

    @property
    def visible(self) -> bool:
        return self.sent is not None and (self.fate is None or self.fate.committed is True)


@dataclass(slots=True)
class _Producer:
    epoch: int
    next_sequence: int = 0
    batches: set[int] = field(default_factory=set[int])  # by their first sequences


class PartitionLog:
    def __init__(self, now_ms: Callable[[], int], moved: Callable[[], None]) -> None:
        """``moved``: called when readers of committed records may see more."""
        self.entries: list[Entry] = []
        self.last_stable_offset = 0
        self._now_ms, self._moved = now_ms, moved
        self._open: dict[int, tuple[int, Fate]] = {}  # producer → its first open offset
        self._producers: dict[int, _Producer] = {}

    @property
    def end(self) -> int:
        return len(self.entries)

    def is_open(self, producer: int) -> bool:
        return producer in self._open

    def append(self, records: Sequence[SentRecord]) -> None:
        """Append what belongs to no transaction."""
        for record in records:
            self.entries.append(Entry(self.end, self._now_ms(), record))
        self._advance()

    def append_open(
        self, records: Sequence[SentRecord], producer: int, epoch: int, sequence: int, transaction: int
    ) -> int:
        """Append to an open transaction; return an error. A batch that is here already is not repeated."""
        known = self._producers.get(producer)
        if known is None or epoch > known.epoch:
            if sequence != 0:
                return KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
            known = self._producers[producer] = _Producer(epoch)
        if epoch < known.epoch:
            return KafkaError.INVALID_PRODUCER_EPOCH
        if sequence in known.batches:
            return OK
        if sequence != known.next_sequence:
            return KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
        known.batches.add(sequence)
        known.next_sequence += len(records)
        first, fate = self._open.setdefault(producer, (self.end, Fate(transaction)))
        if fate.transaction != transaction:  # a late end has split one transaction of the client's
            fate = Fate(transaction)
            self._open[producer] = first, fate
        for record in records:
            self.entries.append(Entry(self.end, self._now_ms(), record, fate))
        return OK

    def mark(self, producer: int, epoch: int, *, commit: bool) -> None:
        """End a producer's transaction here."""
        known = self._producers.get(producer)
        if known is not None and epoch > known.epoch:
            self._producers[producer] = _Producer(epoch)
        _, fate = self._open.pop(producer, (0, None))
        if fate is not None:
            fate.committed = commit
        self.entries.append(Entry(self.end, self._now_ms(), None))
        self._advance()

    def _advance(self) -> None:
        self.last_stable_offset = min((first for first, _ in self._open.values()), default=self.end)
        self._moved()

    def read(self, start: int = 0, end: int | None = None) -> Iterator[Entry]:
        """Committed records of this range; without one, all of them."""
        return (entry for entry in self.entries[start:end] if entry.visible)

    def offset_at(self, time_ms: int) -> int:
        """The first record appended at or after a time; -1 if there is none."""
        return next((e.offset for e in self.entries if e.sent is not None and e.append_ms >= time_ms), -1)
