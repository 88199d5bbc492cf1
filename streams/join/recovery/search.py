"""Finding the newest checkpoint that a restoration can begin with, and fetching it in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import wait
from pathlib import Path

from ..state.position import Offsets, Position
from ..state.store import StateOrigin
from .checkpoints import Checkpoint, CheckpointCancelled, CheckpointError, CheckpointStore, in_background

log = logging.getLogger(__name__)

_POLL_S = 0.02
_STOP_S = 5.0


class CheckpointSearch:
    """The checkpoints of one partition, newest first; why one cannot be used is logged as an error."""

    def __init__(
        self,
        store: CheckpointStore,
        origin: StateOrigin,
        *,
        at_least: int,
        begins: Offsets,
        target: Position,
    ) -> None:
        """``at_least``: the sum of offsets from which on a checkpoint is worth fetching.

        ``begins``: the first offsets that the log still has. ``target``: the committed position.
        """
        self._store, self._origin = store, origin
        self._at_least, self._begins, self._target = at_least, begins, target
        self._usable: Iterator[Checkpoint] | None = None

    def next(self, folder: Path, cancel: threading.Event) -> Checkpoint | None:
        """Fetch the next usable one into ``folder``; return None when there is none.

        On failure: a store that cannot be read counts as empty, which is logged. Raises CheckpointCancelled.
        """
        try:
            if self._usable is None:
                self._usable = self._candidates()
            for checkpoint in self._usable:
                try:
                    self._store.fetch(checkpoint, folder, cancel)
                except CheckpointError as error:
                    self._skipped(str(checkpoint.written_ms), error)
                    continue
                return checkpoint
        except CheckpointCancelled:
            raise
        except Exception as error:  # file systems of fsspec raise what their clients do  # noqa: BLE001
            self._skipped("all that are left", error)
        return None

    def next_in_background(self, folder: Path) -> Generator[int, None, Checkpoint | None]:
        """As ``next``, for a loop that continues meanwhile: yields until it is done."""
        cancel = threading.Event()
        work = in_background("join-fetch", self.next, folder, cancel)
        try:
            while not wait([work], timeout=_POLL_S).done:
                yield 0
        finally:
            cancel.set()  # the partition was revoked meanwhile
            wait([work], timeout=_STOP_S)
        return work.result()

    def _candidates(self) -> Iterator[Checkpoint]:
        for name in self._store.names(self._origin.partition):
            try:
                checkpoint = self._store.read(self._origin.partition, name)
                self._check(checkpoint)
            except CheckpointError as error:
                self._skipped(name, error)
                continue
            at = checkpoint.stands_at
            if sum(at.offsets) < self._at_least:
                return  # all older ones are below, too
            yield checkpoint

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError if it was made of another log, or the log no longer has what follows."""
        if checkpoint.origin != self._origin:
            raise CheckpointError("it was made of other topics or by another layout")
        at, target, begins = checkpoint.stands_at, self._target, self._begins
        if at.predictions > target.predictions or at.labels > target.labels:
            raise CheckpointError(f"it stands at {at.offsets}, beyond the committed {target.offsets}")
        if at.predictions < begins.predictions or at.labels < begins.labels:
            raise CheckpointError(f"it stands at {at.offsets}, but the log now begins at {begins}")

    def _skipped(self, which: str, error: Exception) -> None:
        partition = self._origin.partition
        log.error("partition %d: checkpoint %s is not used: %s", partition, which[:32], error)
