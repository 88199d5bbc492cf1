"""The joiner's store in a dict: what its core is tested on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence


class MemoryStore:
    """What a store has to be (see ``streams.join.state.join_state.StateStore``)."""

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
