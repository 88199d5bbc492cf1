"""The disks of the simulated machines: the joiner's stores, which outlive their processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from driftloop.schemas.errors import StateError

from tests.simulation.clock import Process, VirtualWorld
from tests.support.join.memory_store import MemoryStore


class Disk:
    """Folders with a store each; one process at a time may have one open, as with RocksDB."""

    def __init__(self, world: VirtualWorld) -> None:
        self.world = world
        self.stores: dict[Path, MemoryStore] = {}
        self.holders: dict[Path, Process] = {}

    def wipe(self, name: str) -> None:
        for folder in [folder for folder in self.stores if name in folder.parts]:
            del self.stores[folder]

    def open(self, folder: Path, origin: Any, _cache: object) -> DiskStore:
        return DiskStore(self, folder, origin)


class DiskStore:
    def __init__(self, disk: Disk, folder: Path, origin: Any) -> None:
        self._disk, self._folder, self.origin = disk, folder, origin
        disk.world.check()
        holder = disk.holders.get(folder)
        if holder is not None and holder.alive and holder is not disk.world.current:
            raise StateError(f"the state in {folder} cannot be opened: another process has it")
        disk.holders[folder] = disk.world.current
        self._pairs = disk.stores.setdefault(folder, MemoryStore())

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return self._pairs.get_many(keys)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._pairs.scan(start, end)

    def write(
        self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]
    ) -> None:
        self._disk.world.check()
        self._pairs.write(puts, deletes, ranges)

    def is_empty(self) -> bool:
        return self._pairs.is_empty()

    def clear(self) -> None:
        self._disk.world.check()
        self._pairs.pairs.clear()

    def write_out(self) -> None:
        self._disk.world.check()

    def close(self) -> None:
        self._disk.world.check()
        self._disk.holders.pop(self._folder, None)
