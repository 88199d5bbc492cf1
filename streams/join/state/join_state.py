"""The joiner's state of one input partition: a memory tier, written behind to a key-value store.

Layers, newest first: the changes of the batch under way (dropped by ``rollback``); two generations of entries
(the older one is dropped whole, once all of it is written); the store. Only ``flush`` writes to the store,
after the transactions that it covers have committed: entries, expiry lists and the position they stand for in
one atomic write. What changed since then is in the log.

Expiry: each id is listed under the second in which its first prediction expires, and under that in which its
first unused label does. A list is read when time has got there. Reading it twice, or listing an id twice,
does no harm, because the entry itself decides what has expired.

On failure: a crash at any moment leaves the store at the last flush, which is a state the log once produced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import orjson

from ..matching.records import Entry, decode_entry, encode_entry
from .position import BUCKET_MS, Position

ENTRY_PREFIX = b"e"
PREDICTION_EXPIRY = b"P"
LABEL_EXPIRY = b"L"
POSITION_KEY = b"m"
_LIST_MAX = 5_000  # ids per expiry list: the least that one batch expires
_U64 = struct.Struct(">Q")
LAYOUT = 3  # of keys and values below; another number on disk means: discard and restore from the log


class StateStore(Protocol):
    """A sorted key-value store with atomic writes."""

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]: ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end, ascending."""
        ...

    def write(
        self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Atomically: first the ranges [start, end) are deleted, then keys, then pairs are put."""
        ...

    def is_empty(self) -> bool: ...


class Deadlines(NamedTuple):
    """When an entry's first prediction and its first unused label expire, in ms; None: it has none."""

    prediction_ms: int | None
    label_ms: int | None


class DeadlineColumns(NamedTuple):
    """The ``Deadlines`` of several entries, as columns."""

    prediction_ms: Sequence[int | None]
    label_ms: Sequence[int | None]


class Layers(NamedTuple):
    """The entries in memory, newest first: the first layer that has an id has the right entry.

    That holds as long as the batch under way has removed nothing. Putting an entry into ``staged`` stages it.
    """

    staged: dict[str, Entry | None]
    recent: Mapping[str, Entry]
    old: Mapping[str, Entry]


class Expiring(NamedTuple):
    """Ids that may expire up to the bucket ``reached``."""

    names: list[str]
    reached: int


class JoinState:
    """The entries of one input partition and the position in the log that they stand for."""

    def __init__(
        self,
        store: StateStore,
        deadlines: Callable[[Iterable[Entry]], DeadlineColumns],
        *,
        capacity: int = 200_000,
    ) -> None:
        """``deadlines``: of entries, by the present rules. ``capacity``: about how many ids memory holds."""
        self._store = store
        self._deadlines = deadlines
        self._capacity = capacity
        self._staged: dict[str, Entry | None] = {}
        self._removed: list[str] = []
        self._unwritten: dict[str, Entry | None] = {}
        self._unwritten_removals = False
        self._recent: dict[str, Entry] = {}
        self._old: dict[str, Entry] = {}
        self.complete = store.is_empty()  # memory has everything, so nothing needs to be fetched
        data = store.get_many([POSITION_KEY])[0]
        # The number of expiry lists ever written makes their keys unique across restarts.
        self._lists, *position = [0] if data is None else orjson.loads(data)
        self.position = Position.of_numbers(position) if position else Position()

    @property
    def unwritten(self) -> int:
        """How many ids changed since the last flush."""
        return len(self._unwritten)

    def fetch(self, ids: Iterable[str]) -> None:
        """Load what the store has of these ids into memory, so that ``get`` finds it."""
        if self.complete:
            return
        recent, old = self._recent, self._old
        absent = [name for name in ids if name not in recent and name not in old]
        if self._unwritten_removals:  # the store has them still
            absent = [name for name in absent if name not in self._unwritten]
        if not absent:
            return
        stored = self._store.get_many([ENTRY_PREFIX + name.encode() for name in absent])
        for name, data in zip(absent, stored, strict=True):
            if data is not None:
                recent[name] = decode_entry(data)

    def get(self, name: str) -> Entry | None:
        """Return the entry as the batch under way sees it. The id must have been fetched in this batch."""
        if name in self._staged:
            return self._staged[name]
        return self._recent.get(name) or self._old.get(name)

    def layers(self) -> Layers:
        """Return what ``get`` looks through, for a loop that cannot afford a call per record."""
        return Layers(self._staged, self._recent, self._old)

    def staged(self) -> list[tuple[str, Entry]]:
        """Return the entries that the batch under way has changed and not removed."""
        return [(name, entry) for name, entry in self._staged.items() if entry is not None]

    def put(self, name: str, entry: Entry | None) -> None:
        """Stage a change; None removes the entry."""
        self._staged[name] = entry
        if entry is None:
            self._removed.append(name)

    def commit(self, position: Position) -> None:
        """Keep what the batch staged: its transaction has committed."""
        self._unwritten.update(self._staged)
        self._recent.update(self._staged)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name in self._removed:
            if self._staged[name] is None:
                self._recent.pop(name, None)
                self._old.pop(name, None)
                self._unwritten_removals = True
        self._staged.clear()
        self._removed.clear()
        self.position = position

    def rollback(self) -> None:
        """Drop what the batch staged: its transaction was aborted."""
        self._staged.clear()
        self._removed.clear()

    def expiring(self, kind: bytes, after: int, until: int, limit: int) -> Expiring:
        """Return the ids listed in buckets after ``after`` up to ``until``: at most about ``limit``.

        A bucket is returned whole or not at all, so everything up to ``reached`` is there.
        """
        names: list[str] = []
        start, end = kind + _U64.pack(after + 1), kind + _U64.pack(until + 1)
        reached = after
        for key, value in self._store.scan(start, end):
            bucket = _U64.unpack_from(key, 1)[0]
            if len(names) >= limit and bucket != reached:
                return Expiring(names, reached)
            reached = bucket
            names.extend(orjson.loads(value))
        return Expiring(names, until)

    def flush(self) -> None:
        """Write what changed since the last flush, with the position; then drop the older generation."""
        changed = {name: entry for name, entry in self._unwritten.items() if entry is not None}
        deletes = [ENTRY_PREFIX + name.encode() for name, entry in self._unwritten.items() if entry is None]
        puts = {ENTRY_PREFIX + name.encode(): encode_entry(entry) for name, entry in changed.items()}
        deadlines = self._deadlines(changed.values())
        lists = self._lists
        for kind, column in (
            (PREDICTION_EXPIRY, deadlines.prediction_ms),
            (LABEL_EXPIRY, deadlines.label_ms),
        ):
            by_bucket: dict[int, list[str]] = {}
            for name, deadline_ms in zip(changed, column, strict=True):
                if deadline_ms is not None:
                    bucket = deadline_ms // BUCKET_MS + 1  # as ``bucket_of``, without a call
                    if bucket in by_bucket:
                        by_bucket[bucket].append(name)
                    else:
                        by_bucket[bucket] = [name]
            for bucket, names in by_bucket.items():
                for i in range(0, len(names), _LIST_MAX):
                    listed = orjson.dumps(names[i : i + _LIST_MAX])
                    puts[kind + _U64.pack(bucket) + _U64.pack(lists)] = listed
                    lists += 1
        self._lists = lists
        puts[POSITION_KEY] = orjson.dumps((lists, *self.position.numbers()))
        passed = [
            (kind + _U64.pack(0), kind + _U64.pack(expired + 1))
            for kind, expired in (
                (PREDICTION_EXPIRY, self.position.expired_predictions),
                (LABEL_EXPIRY, self.position.expired_labels),
            )
        ]
        self._store.write(puts, deletes, passed)
        self._unwritten.clear()
        self._unwritten_removals = False
        if len(self._recent) > self._capacity // 2:
            self.complete = self.complete and not self._old
            self._old, self._recent = self._recent, {}
