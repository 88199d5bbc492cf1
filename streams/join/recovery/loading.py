"""Loading an assigned input partition: its store, what of it can be used, and what must be restored."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import cast

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription
from rocksdict import Cache

from ....schemas.errors import BrokerError, StateError, TopicError
from ....schemas.topics import LABELS, OUTCOMES, PREDICTIONS, VITALS
from ...kafka.connection import Connection
from ...kafka.offsets import LogOffsets
from ...kafka.ranges import LogRanges
from ..config import JoinTuning
from ..core import Joiner
from ..partition import AssignedPartition
from ..reading.batch import BatchReader
from ..specs import JoinRules
from ..state.position import INPUTS, Offsets, Position
from ..state.store import RocksStore, StateOrigin
from ..stats import JoinStats, RestoreStats
from .checkpoints import CheckpointStore
from .progress import ProgressReporter
from .restore import Restoration
from .search import next_in_background, usable_checkpoints

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_SLICE_S = 0.1  # restoring yields to the partitions that are live
_LONG_REPLAY = 500_000  # offsets: some seconds of replay, longer than a checkpoint takes to fetch


class PartitionLoader:
    """Loads the partitions of one process."""

    def __init__(
        self,
        connection: Connection,
        offsets: LogOffsets,
        specs: JoinRules,
        reports: ProgressReporter,
        state_dir: Path,
        tuning: JoinTuning,
        stats: JoinStats,
        store_url: str | None,
    ) -> None:
        """``store_url``: where checkpoints are; None for none.

        Raises TopicError when the topics do not fit each other, BrokerError when no broker answers.
        """
        self._connection, self._offsets, self._specs, self._reports = connection, offsets, specs, reports
        self._state_dir, self._tuning, self._stats = state_dir, tuning, stats
        self._cache = Cache(tuning.cache_mb << 20)
        counts = {topic.name: len(offsets.partitions(topic)) for topic in (PREDICTIONS, LABELS, OUTCOMES)}
        if len(set(counts.values())) > 1:
            raise TopicError(f"these must have the same number of partitions: {counts}")
        self._partitions = counts[PREDICTIONS.name]
        self._vitals_partitions = len(offsets.partitions(VITALS))
        self._origin = self._origin_of_first()
        self.checkpoints: CheckpointStore | None = None
        if store_url is not None:
            topic = connection.topic(PREDICTIONS)
            self.checkpoints = CheckpointStore(store_url, self._origin.cluster, topic)

    def _origin_of_first(self) -> StateOrigin:
        """Ask which cluster and topics these are."""
        admin = AdminClient(self._connection.client())
        names = [self._connection.topic(topic) for topic in (PREDICTIONS, LABELS)]
        try:
            described = cast(
                "dict[str, Future[TopicDescription]]",
                admin.describe_topics(TopicCollection(names), request_timeout=_TIMEOUT_S),
            )
            predictions, labels = (str(described[name].result().topic_id) for name in names)
            cluster = str(admin.list_topics(timeout=_TIMEOUT_S).cluster_id)
        except KafkaException as error:
            raise BrokerError(
                f"cannot ask Kafka which cluster and topics these are: {error.args[0]}"
            ) from error
        return StateOrigin(cluster, predictions, labels, 0, self._partitions)

    def load(self, number: int, committed: Position | None) -> AssignedPartition:
        """Open a partition's state. ``committed``: None before the group's first commit.

        Raises StateError, BrokerError.
        """
        store = self._open(number)
        owned = AssignedPartition(self._joiner(number, store), BatchReader(number, self._partitions), store)
        if committed is None:
            committed = self._first_position(number)
            self._clear(owned)
            owned.joiner.finish_restore(committed)
            self._reports.joining(number, None, time.monotonic())
        else:
            owned.committed_books = committed.books
            owned.restoring = self._restore(owned, committed)
        return owned

    def restore_some(self, partitions: Iterable[AssignedPartition]) -> list[int]:
        """Continue restoring for a moment; return the partitions that are now restored."""
        until = time.monotonic() + _SLICE_S
        restored: list[int] = []
        for owned in [one for one in partitions if one.restoring is not None]:
            steps = owned.restoring or iter(())
            while time.monotonic() < until:
                replayed = next(steps, None)
                now = time.monotonic()  # after the first step, which says when it began
                stats = self._stats.restores[owned.number]  # since the first step
                if replayed is not None:
                    self._stats.replayed += replayed
                    self._reports.restoring(owned.number, stats, now)
                    continue
                owned.restoring, stats.took_s = None, now - stats.began_at
                of = owned.number, stats.records, stats.took_s
                log.info("partition %d is restored: %d records in %.1f s", *of)
                self._reports.joining(owned.number, stats, now)
                restored.append(owned.number)
                break
        return restored

    def _folder(self, number: int) -> Path:
        return self._state_dir / f"partition-{number:05d}"

    def _open(self, number: int) -> RocksStore:
        origin = replace(self._origin, partition=number)
        return RocksStore(self._folder(number), origin, self._cache)

    def _joiner(self, number: int, store: RocksStore) -> Joiner:
        return Joiner(
            number,
            store,
            self._specs.rules,
            vitals_partitions=self._vitals_partitions,
            capacity=self._tuning.memory_ids // self._partitions,
        )

    def _clear(self, owned: AssignedPartition) -> None:
        owned.store.clear()
        owned.replace_state(self._joiner(owned.number, owned.store), owned.store)

    def _restore(self, owned: AssignedPartition, target: Position) -> Generator[int, None, None]:
        """Restore from the disk if its state can be used, else from a checkpoint, else from the log alone."""
        stats = self._stats.restores[owned.number] = RestoreStats(time.monotonic())
        restoration = Restoration(
            self._connection, self._offsets, owned, target, stats, flush_ids=self._tuning.flush_ids
        )
        usable = restoration.state_is_usable()
        if not usable:
            log.warning("partition %d: no state on disk that can be used", owned.number)
        if not usable or restoration.remaining() > _LONG_REPLAY:
            # Where the disk has a state, a checkpoint is worth fetching if it spares half of the replay.
            at_least = sum(target.offsets) - restoration.remaining() // 2 if usable else 0
            loaded = yield from self._load_checkpoint(owned, target, stats, at_least)
            usable = loaded or restoration.state_is_usable()
        start = Position()
        if not usable:
            stats.source = "log"
            self._clear(owned)
            start = restoration.start()
        log.info("partition %d: restoring from %s", owned.number, stats.source)
        yield from restoration.steps(start)
        right = restoration.books_are_right()
        if usable and not right:
            log.error("partition %d: the state is not what was committed; it is discarded", owned.number)
            stats.source, stats.done = "log", 0
            self._clear(owned)
            yield from restoration.steps(restoration.start())
            _ = restoration.books_are_right()

    def _load_checkpoint(
        self, owned: AssignedPartition, target: Position, stats: RestoreStats, at_least: int
    ) -> Generator[int, None, bool]:
        """Replace the partition's state by the newest usable checkpoint; return whether there was one."""
        if self.checkpoints is None:
            return False
        folder, incoming = self._folder(owned.number), self._folder(owned.number).with_suffix(".incoming")
        origin, cancel, begins = owned.store.origin, threading.Event(), self._begins(owned.number)
        usable = usable_checkpoints(
            self.checkpoints, origin, incoming, cancel, at_least=at_least, begins=begins, target=target
        )
        while checkpoint := (yield from next_in_background(usable, cancel)):
            owned.store.close()
            shutil.rmtree(folder)
            incoming.rename(folder)
            store = self._open(owned.number)
            owned.replace_state(self._joiner(owned.number, store), store)
            if owned.joiner.position == checkpoint.stands_at:
                stats.source, stats.fetched = "checkpoint", checkpoint.size
                return True
            log.error("partition %d: a checkpoint does not hold what it says; not used", owned.number)
            self._clear(owned)
        shutil.rmtree(incoming, ignore_errors=True)
        return False

    def _first_position(self, number: int) -> Position:
        """Return where a group that has never committed begins.

        Raises StateError when outcomes show that it has: beginning again would emit all of them once more.
        """
        begin, end = (ask(OUTCOMES, [number])[number] for ask in (self._offsets.begins, self._offsets.ends))
        ranges = LogRanges(self._connection, name="join-first")
        try:
            emitted = next(ranges.read(OUTCOMES, {number: range(begin, end)}), None)
        finally:
            ranges.close()
        if emitted is not None:
            group, outcomes = self._connection.group("join"), self._connection.topic(OUTCOMES)
            raise StateError(
                f"the group {group} has no offsets of partition {number}, but "
                f"{outcomes} has outcomes: its offsets have expired (offsets.retention.minutes) or were "
                "deleted. Set them where vitals end (kafka-consumer-groups --reset-offsets), or delete and "
                "create the topics to start over"
            )
        begins = self._begins(number)
        return Position(begins.predictions, begins.labels)

    def _begins(self, number: int) -> Offsets:
        predictions, labels = (self._offsets.begins(topic, [number])[number] for topic in INPUTS)
        return Offsets(predictions, labels)
