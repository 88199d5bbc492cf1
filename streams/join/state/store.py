"""The joiner's store on disk: one RocksDB per input partition, in a folder of its own.

A folder belongs to one cluster, one pair of topics (by their ids, so topics that were deleted and created
again are different ones) and one layout. What belongs to something else is removed: the log has everything.
Writes go to the write-ahead log without fsync. They survive the process; after a power cut RocksDB recovers
an earlier flush, and the log the rest.

``checkpoint`` makes a consistent copy (hard links) that opens like the folder itself. It carries its position
and its origin, so another host can open it anywhere.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import orjson
from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from ....schemas.errors import StateError
from ....schemas.reasons.disk import disk_reason
from .join_state import LAYOUT

log = logging.getLogger(__name__)

_ORIGIN_KEY = b"o"


@dataclass(frozen=True, slots=True)
class StateOrigin:
    """Where the records came from that a store was made of."""

    cluster: str
    predictions: str
    labels: str
    partition: int
    partitions: int
    layout: int = LAYOUT


class RocksStore:
    """The state store on RocksDB.

    On failure: StateError, which names the folder and, where its disk is full, what to do. A ``write`` has
    happened as a whole, or not at all. After one that failed RocksDB may refuse all others: close the store.
    """

    def __init__(self, folder: Path, origin: StateOrigin, cache: Cache, *, write_buffer_mb: int = 16) -> None:
        """Open the folder; clear it if it holds something else or is damaged.

        ``cache``: shared by all stores of the process. ``write_buffer_mb``: of this one, twice at most.
        Raises StateError when it cannot be opened, for example because another process has it.
        """
        self._folder = folder
        self._options = _options(cache, write_buffer_mb)
        self.origin = origin
        with self._named("opened"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
            wanted = orjson.dumps(asdict(origin))
            found = cast("bytes | None", self._db.get(_ORIGIN_KEY))
            if found != wanted:
                self._reset(wanted)

    @contextmanager
    def _named(self, done: str) -> Generator[None]:
        """Raise StateError for what the disk does and RocksDB reports, which comes as a plain Exception."""
        try:
            yield
        except Exception as error:
            if type(error) is not Exception and not isinstance(error, OSError | DbClosedError):
                raise
            raise StateError(f"the state in {self._folder} cannot be {done}: {disk_reason(error)}") from error

    def _open(self) -> Rdict:
        try:
            return Rdict(str(self._folder), self._options)
        except Exception as error:
            # Anything else, such as another process's lock, is no reason to remove it.
            if not str(error).startswith("Corruption"):
                raise
            log.error("the state in %s is damaged and was removed: %s", self._folder, error)
            shutil.rmtree(self._folder)
            return Rdict(str(self._folder), self._options)

    def _reset(self, origin: bytes) -> None:
        self._db.close()
        shutil.rmtree(self._folder)
        self._db = Rdict(str(self._folder), self._options)
        self._db.put(_ORIGIN_KEY, origin)

    def clear(self) -> None:
        """Remove everything."""
        with self._named("cleared"):
            self._reset(cast("bytes", self._db.get(_ORIGIN_KEY)))

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        wanted = cast("list[str | int | float | bytes | bool]", list(keys))
        with self._named("read"):
            return cast("list[bytes | None]", self._db.get(wanted))

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._named("read"):
            for key, value in cast("Iterator[tuple[bytes, bytes]]", self._db.items(from_key=start)):
                if key >= end:
                    return
                yield key, value

    def write(
        self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]
    ) -> None:
        batch = WriteBatch(raw_mode=True)
        for start, end in ranges:
            batch.delete_range(start, end)
        for key in deletes:
            batch.delete(key)
        for key, value in puts.items():
            batch.put(key, value)
        with self._named("written"):
            self._db.write(batch)

    def is_empty(self) -> bool:
        return next((False for key, _ in self.scan(b"", b"\xff") if key != _ORIGIN_KEY), True)

    def write_out(self) -> None:
        """Let RocksDB write its memory to tables, in the background."""
        with self._named("written out"):
            self._db.flush(False)

    def checkpoint(self, folder: Path) -> None:
        """Make a consistent copy as of the last write. ``folder`` must not exist.

        Everything stands still meanwhile: some milliseconds if ``write_out`` was called before, else up to
        200.
        """
        with self._named("copied"):
            Checkpoint(self._db).create_checkpoint(str(folder))

    def close(self) -> None:
        with self._named("closed"):
            self._db.close()


def _options(cache: Cache, write_buffer_mb: int) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)  # so that the cache bounds them too
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(write_buffer_mb << 20)
    options.set_max_write_buffer_number(2)
    options.set_max_total_wal_size(write_buffer_mb << 22)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    return options
