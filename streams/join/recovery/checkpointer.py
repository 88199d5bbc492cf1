"""Making checkpoints while the joiner goes on joining.

1. A partition is due: its state is written behind, and RocksDB is asked to write its memory out in the
   background.
2. A moment later ``RocksStore.checkpoint`` makes hard links of what is then on disk: milliseconds, the only
   part that the loop waits for.
3. A thread uploads it (``recovery.checkpoints``), prunes older ones and removes the links.

On failure: it is logged, counted, and tried again after the next interval; joining needs no checkpoint. A
process that dies leaves a folder of links, which the next start removes.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from ....models.registry.artifacts import without_secrets
from ....schemas.errors import StateError
from ..config import JoinTuning
from ..partition import AssignedPartition
from ..state.position import Position
from ..state.store import StateOrigin
from ..stats import CheckpointStats, JoinStats
from .checkpoints import CheckpointCancelled, CheckpointStore, Digests, Published, in_background

log = logging.getLogger(__name__)

_MARK = ".checkpoint-"
_SETTLES_S = 2.0  # RocksDB writes at most two write buffers in this time
_FIRST_S = 60.0  # so that processes that live shorter than the interval make checkpoints too


@dataclass(slots=True)
class _Schedule:
    """When a partition's next checkpoint is due, and once it was begun, when it can be made.

    ``known``: digests of the tables; after a rebalance others may have the same names.
    """

    due_at: float
    settled_at: float | None = None
    newest: Position | None = None
    under_way: Future[Published] | None = None
    known: Digests = field(default_factory=Digests)


class Checkpointer:
    """The checkpoints of one process."""

    def __init__(self, store: CheckpointStore, state_dir: Path, tuning: JoinTuning, stats: JoinStats) -> None:
        self._interval_s, self._keep = tuning.checkpoint_interval_s, tuning.checkpoints_kept
        self._store, self._state_dir, self._stats = store, state_dir, stats
        self._schedules: dict[int, _Schedule] = {}
        self._made = 0
        self._cancel = threading.Event()
        for left in state_dir.glob(f"partition-*{_MARK}*"):
            shutil.rmtree(left)

    def tend(self, partitions: Iterable[AssignedPartition], now: float) -> None:
        """Do what is due for those that are live; called between batches."""
        for owned in partitions:
            if owned.restoring is None:
                self._tend(owned, now)

    def _tend(self, owned: AssignedPartition, now: float) -> None:
        first_at = now + min(_FIRST_S, self._interval_s)
        schedule = self._schedules.setdefault(owned.number, _Schedule(first_at))
        if schedule.under_way is not None:
            if schedule.under_way.done():
                self._report(owned.number, schedule.under_way)
                schedule.under_way = None
            return
        if schedule.settled_at is not None:
            uploading = any(other.under_way is not None for other in self._schedules.values())
            if now >= schedule.settled_at and not uploading:
                self._make(owned, schedule, now)
        elif now >= schedule.due_at:
            if owned.joiner.position == schedule.newest:
                schedule.due_at = now + self._interval_s
                return
            owned.flush(now)
            try:
                owned.store.write_out()
            except StateError as error:
                self._not_made(owned.number, schedule, error, now)
                return
            schedule.settled_at = now + min(_SETTLES_S, self._interval_s / 10)

    def forget(self) -> None:
        """Drop all schedules, because partitions were revoked; an upload under way continues."""
        self._schedules.clear()

    def close(self) -> None:
        """Cancel the upload under way, without waiting for a store that does not answer."""
        self._cancel.set()

    def _make(self, owned: AssignedPartition, schedule: _Schedule, now: float) -> None:
        self._made += 1
        folder = self._state_dir / f"partition-{owned.number:05d}{_MARK}{self._made}"
        began = time.perf_counter()
        position = owned.flushed_position
        try:
            owned.store.checkpoint(folder)
        except StateError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._not_made(owned.number, schedule, error, now)
            return
        stalled_s = time.perf_counter() - began
        log.debug("partition %d: a checkpoint held the loop for %.1f ms", owned.number, 1e3 * stalled_s)
        schedule.settled_at, schedule.due_at, schedule.newest = None, now + self._interval_s, position
        origin, known = owned.store.origin, schedule.known
        schedule.under_way = in_background(
            "join-checkpoint", lambda: self._upload(origin, folder, position, known, stalled_s)
        )

    def _not_made(self, partition: int, schedule: _Schedule, error: StateError, now: float) -> None:
        schedule.settled_at, schedule.due_at = None, now + self._interval_s
        self._stats.checkpoints_failed += 1
        log.error("partition %d: no checkpoint: %s", partition, error)

    def _upload(
        self, origin: StateOrigin, folder: Path, position: Position, known: Digests, stalled_s: float
    ) -> Published:
        began, now_ms = time.perf_counter(), time.time_ns() // 1_000_000
        try:
            published = self._store.publish(folder, origin, position, known, self._cancel, written_ms=now_ms)
            self._store.prune(origin, self._keep)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._stats.checkpoints[origin.partition] = CheckpointStats(
            written_ms=now_ms,
            offsets=sum(position.offsets),
            size=published.checkpoint.size,
            uploaded=published.uploaded,
            stalled_s=stalled_s,
            took_s=time.perf_counter() - began,
        )
        return published

    def _report(self, partition: int, upload: Future[Published]) -> None:
        try:
            published = upload.result()
        except CheckpointCancelled:
            return
        except Exception as error:  # file systems of fsspec raise what their clients do  # noqa: BLE001
            self._stats.checkpoints_failed += 1
            reason = without_secrets(self._store.secrets, str(error))
            log.error("partition %d: no checkpoint: %s: %s", partition, type(error).__name__, reason)
            return
        size_mb, new_mb = published.checkpoint.size / 1e6, published.uploaded / 1e6
        log.info("partition %d: checkpoint of %.1f MB, %.1f MB of it new", partition, size_mb, new_mb)
