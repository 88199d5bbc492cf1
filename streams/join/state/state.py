"""What the joiner remembers of one input partition: a memory tier, written behind to a key-value store.

Layers, newest first: the changes of the batch under way (forgotten by ``rollback``); two generations of
entries (the older one is dropped whole, once all of it is written); the store.
The store is written by ``flush`` only, after the transactions it covers have committed: entries, expiry times
and the position they stand for in one atomic write. Between two flushes the log is what remembers.

Expiry: each id is listed under the second in which its first prediction ends, and under that in which its
first unused label does. A list is read when time has got there; reading it twice, or listing a group twice,
does no harm, because what has ended is decided from the entry itself.

On failure: a crash at any moment leaves the store at the last flush, which is a state the log once produced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import orjson

from ..records import Entry, decode_entry, encode_entry
from .position import BUCKET_MS, Position, bucket_of

ENTRY_PREFIX = b"e"
PREDICTION_ENDS = b"P"
LABEL_ENDS = b"L"
_POSITION_KEY = b"m"
_LIST_MAX = 5_000  # ids per expiry list: one is the least that an eviction reads
_U64 = struct.Struct(">Q")
LAYOUT = 2  # of keys and values below; another number on disk means: discard and restore from the log


class Store(Protocol):
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


class MemoryStore:
    """A store in a dict: what the core is tested on, and what a store has to be."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return [self.pairs.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((k, v) for k, v in self.pairs.items() if start <= k < end))

    def write(
        self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]
    ) -> None:
        for start, end in ranges:
            for key in [k for k in self.pairs if start <= k < end]:
                del self.pairs[key]
        for key in deletes:
            self.pairs.pop(key, None)
        self.pairs.update(puts)

    def is_empty(self) -> bool:
        return not self.pairs


# When an entry's first prediction and its first unused label end, in ms; None: it has none.
Deadlines = tuple[int | None, int | None]


class JoinState:
    """The entries of one input partition and the position in the log that they stand for."""

    def __init__(
        self,
        store: Store,
        deadlines: Callable[[Iterable[Entry]], Sequence[Deadlines]],
        *,
        capacity: int = 200_000,
    ) -> None:
        """``deadlines`` tells when entries end. ``capacity``: about how many ids memory holds."""
        self._store = store
        self._deadlines = deadlines
        self._capacity = capacity
        self._staged: dict[str, Entry | None] = {}
        self._removed: list[str] = []
        self._unwritten: dict[str, Entry | None] = {}
        self._unwritten_ends = False
        self._recent: dict[str, Entry] = {}
        self._old: dict[str, Entry] = {}
        self._complete = store.is_empty()
        data = store.get_many([_POSITION_KEY])[0]
        # The number of expiry lists ever written makes their keys unique across restarts.
        self._lists, *position = [0] if data is None else orjson.loads(data)
        self.position = Position(*position)

    def warm_up(self) -> None:
        """Reads all entries into memory if they fit, so that no batch needs to ask the store."""
        found: dict[str, Entry] = {}
        for key, data in self._store.scan(ENTRY_PREFIX, _after(ENTRY_PREFIX)):
            if len(found) > self._capacity // 2:
                return
            found[key[1:].decode()] = decode_entry(data)
        self._recent = found
        self._complete = True

    @property
    def unwritten(self) -> int:
        """Ids changed since the last flush."""
        return len(self._unwritten)

    @property
    def complete(self) -> bool:
        """Whether memory has everything, so that nothing need be fetched."""
        return self._complete

    def fetch(self, ids: Iterable[str]) -> None:
        """Brings what the store holds of these ids into memory, so that ``get`` finds it."""
        if self._complete:
            return
        recent, old = self._recent, self._old
        absent = [name for name in ids if name not in recent and name not in old]
        if self._unwritten_ends:  # the store has them still
            absent = [name for name in absent if name not in self._unwritten]
        if not absent:
            return
        stored = self._store.get_many([ENTRY_PREFIX + name.encode() for name in absent])
        for name, data in zip(absent, stored, strict=True):
            if data is not None:
                recent[name] = decode_entry(data)

    def get(self, name: str) -> Entry | None:
        """The entry as the batch under way sees it. The id must have been fetched in this batch."""
        if name in self._staged:
            return self._staged[name]
        return self._recent.get(name) or self._old.get(name)

    def layers(self) -> tuple[dict[str, Entry | None], Mapping[str, Entry], Mapping[str, Entry]]:
        """What ``get`` looks through, for the loop that cannot afford a call per record: the first that has
        an entry under the id has the right one, as long as the batch under way has removed nothing. A change
        may be staged by putting it into the first.
        """
        return self._staged, self._recent, self._old

    def staged(self) -> list[tuple[str, Entry]]:
        """The entries that the batch under way has changed and not removed."""
        return [(name, entry) for name, entry in self._staged.items() if entry is not None]

    def put(self, name: str, entry: Entry | None) -> None:
        """Stages a change; None removes the entry."""
        self._staged[name] = entry
        if entry is None:
            self._removed.append(name)

    def commit(self, position: Position) -> None:
        """The batch's transaction has committed."""
        self._unwritten.update(self._staged)
        self._recent.update(self._staged)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name in self._removed:
            if self._staged[name] is None:
                self._recent.pop(name, None)
                self._old.pop(name, None)
                self._unwritten_ends = True
        self._staged.clear()
        self._removed.clear()
        self.position = position

    def rollback(self) -> None:
        """The batch's transaction was aborted: as if it had never been read."""
        self._staged.clear()
        self._removed.clear()

    def ending(self, kind: bytes, after: int, until: int, limit: int) -> tuple[list[str], int]:
        """Ids listed in buckets (after, until], and the last bucket they reach: at most about ``limit`` ids.

        A bucket is given whole or not at all, so the second value is as good as ``until`` for what is given.
        """
        names: list[str] = []
        start, end = kind + _U64.pack(after + 1), kind + _U64.pack(until + 1)
        reached = after
        for key, value in self._store.scan(start, end):
            bucket = _U64.unpack_from(key, 1)[0]
            if len(names) >= limit and bucket != reached:
                return names, reached
            reached = bucket
            names.extend(orjson.loads(value))
        return names, until

    def flush(self) -> None:
        """Writes what changed since the last flush, with the position; then lets go of the older half."""
        changed = {name: entry for name, entry in self._unwritten.items() if entry is not None}
        deletes = [ENTRY_PREFIX + name.encode() for name, entry in self._unwritten.items() if entry is None]
        puts = {ENTRY_PREFIX + name.encode(): encode_entry(entry) for name, entry in changed.items()}
        prediction_ends: dict[int, list[str]] = {}
        label_ends: dict[int, list[str]] = {}
        lists = self._lists
        for name, (predictions_end, labels_end) in zip(
            changed, self._deadlines(changed.values()), strict=True
        ):
            if predictions_end is not None:
                bucket = predictions_end // BUCKET_MS + 1
                if bucket in prediction_ends:
                    prediction_ends[bucket].append(name)
                else:
                    prediction_ends[bucket] = [name]
            if labels_end is not None:
                label_ends.setdefault(bucket_of(labels_end), []).append(name)
        for kind, ends in ((PREDICTION_ENDS, prediction_ends), (LABEL_ENDS, label_ends)):
            for bucket, names in ends.items():
                for i in range(0, len(names), _LIST_MAX):
                    listed = orjson.dumps(names[i : i + _LIST_MAX])
                    puts[kind + _U64.pack(bucket) + _U64.pack(lists)] = listed
                    lists += 1
        self._lists = lists
        puts[_POSITION_KEY] = orjson.dumps((lists, *self.position))
        over = [
            (kind + _U64.pack(0), kind + _U64.pack(evicted + 1))
            for kind, evicted in (
                (PREDICTION_ENDS, self.position.expired_predictions),
                (LABEL_ENDS, self.position.expired_labels),
            )
        ]
        self._store.write(puts, deletes, over)
        self._unwritten.clear()
        self._unwritten_ends = False
        if len(self._recent) > self._capacity // 2:
            self._complete = self._complete and not self._old
            self._old, self._recent = self._recent, {}


def _after(prefix: bytes) -> bytes:
    """The first key behind all that begin with ``prefix``, one byte."""
    return bytes((prefix[0] + 1,))
