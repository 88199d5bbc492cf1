"""An assigned input partition: its joiner and its store."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress

from confluent_kafka import Message

from ...schemas.errors import StateError
from ...schemas.topics import LABELS, PREDICTIONS, Topic
from .batch_output import BatchOutput
from .core import Joiner
from .matching.rules import Rules
from .reading.batch import Batch, BatchReader
from .reading.columns import columns_of
from .state.books import Books
from .state.position import Watermarks
from .state.store import RocksStore

log = logging.getLogger(__name__)


class AssignedPartition:
    """``restoring``: the steps that are left until the partition is live; None once it is.

    ``committed_books``: those that went with the offsets; None: they came without.
    """

    def __init__(self, joiner: Joiner, reader: BatchReader, store: RocksStore) -> None:
        self.number = joiner.partition
        self.joiner = joiner
        self.restoring: Generator[int, None, None] | None = None
        self.flushed_at = 0.0
        self.flushed_position = joiner.position
        self.committed_books: Books | None = joiner.books
        self.reader = reader
        self.store = store

    def read(self, messages: Mapping[Topic, Sequence[Message]]) -> Batch:
        at = self.joiner.position
        return self.reader.read(
            columns_of(messages.get(PREDICTIONS, ()), at.predictions),
            columns_of(messages.get(LABELS, ()), at.labels),
        )

    def process(self, batch: Batch, rules: Rules, idle: Watermarks) -> BatchOutput:
        self.joiner.rules = rules
        return self.joiner.process(batch, idle)

    @property
    def books_moved(self) -> bool:
        """Whether the books are not the committed ones: a restoration opened or changed them."""
        return self.joiner.books != self.committed_books

    def commit(self) -> Books:
        """Keep what is staged, now that it is committed; return the books, and log if it unbalanced them."""
        joiner = self.joiner
        before, begin = joiner.books, joiner.position.offsets
        joiner.commit()
        if joiner.books.difference != before.difference:
            log.error(
                "partition %d: since the batch from %s to %s the books do not balance: %s (driftloop doctor)",
                *(self.number, begin, joiner.position.offsets, joiner.books),
            )
        self.committed_books = joiner.books
        return joiner.books

    @property
    def has_moved(self) -> bool:
        """Whether the disk is behind the joiner."""
        return self.flushed_position != self.joiner.position

    def flush(self, now: float) -> None:
        self.joiner.flush()
        self.flushed_at = now
        self.flushed_position = self.joiner.position

    def replace_state(self, joiner: Joiner, store: RocksStore) -> None:
        """Use another state of the same partition; the former store is closed already."""
        self.joiner, self.store = joiner, store
        self.flushed_position = joiner.position

    def close(self) -> None:
        """Write what is committed; what is staged was never committed and is dropped."""
        try:
            if self.restoring is not None:
                self.restoring.close()
            self.joiner.rollback()
            self.joiner.flush()
        except BaseException:  # of a state that cannot be written its former flush is there
            with suppress(StateError):
                self.store.close()
            raise
        self.store.close()
