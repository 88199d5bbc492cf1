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


def usable_checkpoints(
    store: CheckpointStore,
    origin: StateOrigin,
    folder: Path,
    cancel: threading.Event,
    *,
    at_least: int,
    begins: Offsets,
    target: Position,
) -> Iterator[Checkpoint]:
    """Fetch the partition's checkpoints into ``folder``, one per step, the newest first.

    ``at_least``: the sum of offsets from which on a checkpoint is worth fetching. ``begins``: the first
    offsets that the log still has. ``target``: the committed position.

    On failure: why one cannot be used is logged as an error; a store that cannot be read counts as empty.
    Raises CheckpointCancelled once ``cancel`` is set.
    """
    partition = origin.partition
    try:
        for name in store.names(partition):
            try:
                checkpoint = store.read(partition, name)
                _check(checkpoint, origin, begins, target)
                if sum(checkpoint.stands_at.offsets) < at_least:
                    return  # all older ones are below, too
                store.fetch(checkpoint, folder, cancel)
            except CheckpointError as error:
                log.error("partition %d: checkpoint %s is not used: %s", partition, name[:32], error)
                continue
            yield checkpoint
    except CheckpointCancelled:
        raise
    except Exception as error:  # file systems of fsspec raise what their clients do  # noqa: BLE001
        log.error("partition %d: no older checkpoint is used: %s", partition, error)


def next_in_background(
    checkpoints: Iterator[Checkpoint], cancel: threading.Event
) -> Generator[int, None, Checkpoint | None]:
    """Return the next one, for a loop that continues meanwhile: yields until it is there."""
    work = in_background("join-fetch", lambda: next(checkpoints, None))
    try:
        while not wait([work], timeout=_POLL_S).done:
            yield 0
    except GeneratorExit:  # the partition was revoked meanwhile
        cancel.set()
        wait([work], timeout=_STOP_S)
        raise
    return work.result()


def _check(checkpoint: Checkpoint, origin: StateOrigin, begins: Offsets, target: Position) -> None:
    """Raise CheckpointError if it was made of another log, or the log no longer has what follows."""
    if checkpoint.origin != origin:
        raise CheckpointError("it was made of other topics or by another layout")
    at = checkpoint.stands_at
    if at.predictions > target.predictions or at.labels > target.labels:
        raise CheckpointError(f"it stands at {at.offsets}, beyond the committed {target.offsets}")
    if at.predictions < begins.predictions or at.labels < begins.labels:
        raise CheckpointError(f"it stands at {at.offsets}, but the log now begins at {begins}")
