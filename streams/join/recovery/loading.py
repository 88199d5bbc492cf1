"""Opening an assigned input partition: its store, what of it can be used, and what is left to restore."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import cast

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription

from ....schemas.errors import BrokerError, StateError, TopicError
from ....schemas.topics import LABELS, OUTCOMES, PREDICTIONS, VITALS, Topic
from ...kafka.connection import Connection
from ...kafka.ranges import LogOffsets, LogRanges
from ..config import JoinTuning
from ..core import Joiner
from ..partition import AssignedPartition
from ..reading.batch import Reader
from ..specs import JoinRules
from ..state.position import Offsets, Position
from ..state.store import Origin, RocksStore, shared_cache
from ..stats import JoinStats, RestoreStats
from .background import in_background
from .checkpoints import Checkpoint, CheckpointStore
from .restore import Restoration
from .search import CheckpointSearch

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_LONG_GAP = 500_000  # offsets: some seconds of replay, longer than a checkpoint takes to fetch
_FETCH_POLL_S = 0.02
_FETCH_STOPS_S = 5.0


class PartitionLoader:
    """Opens partitions of one process."""

    def __init__(
        self,
        connection: Connection,
        offsets: LogOffsets,
        specs: JoinRules,
        state_dir: Path,
        tuning: JoinTuning,
        stats: JoinStats,
        store_url: str | None,
    ) -> None:
        """``store_url``: where checkpoints are; None for none.

        Raises TopicError when the topics do not fit each other, BrokerError when nobody answers."""
        self._connection, self._offsets, self._specs = connection, offsets, specs
        self._state_dir, self._tuning, self._stats = state_dir, tuning, stats
        self._cache = shared_cache(tuning.store)
        counts = {topic.name: len(offsets.partitions(topic)) for topic in (PREDICTIONS, LABELS, OUTCOMES)}
        if len(set(counts.values())) > 1:
            raise TopicError(f"these must have the same number of partitions: {counts}")
        self._partitions = counts[PREDICTIONS.name]
        self._vitals_partitions = len(offsets.partitions(VITALS))
        self._cluster, self._topic_ids = self._identities()
        self._checkpoints = (
            None
            if store_url is None
            else CheckpointStore(store_url, self._cluster, connection.topic(PREDICTIONS))
        )

    @property
    def checkpoints(self) -> CheckpointStore | None:
        return self._checkpoints

    def _identities(self) -> tuple[str, tuple[str, str]]:
        """The cluster's id, and those of predictions and labels."""
        admin = AdminClient(self._connection.client())
        names = [self._connection.topic(topic) for topic in (PREDICTIONS, LABELS)]
        try:
            described = cast(
                "dict[str, Future[TopicDescription]]",
                admin.describe_topics(TopicCollection(names), request_timeout=_TIMEOUT_S),
            )
            predictions, labels = (str(described[name].result().topic_id) for name in names)
            return str(admin.list_topics(timeout=_TIMEOUT_S).cluster_id), (predictions, labels)
        except KafkaException as error:
            raise BrokerError(
                f"cannot ask Kafka which cluster and topics these are: {error.args[0]}"
            ) from error

    def open(self, number: int, target: Position | None) -> tuple[AssignedPartition, Position]:
        """``target``: the committed position, None before the first. Gives the position to go on from."""
        origin = Origin(self._cluster, *self._topic_ids, number, self._partitions)
        store = RocksStore(self._folder(number), origin, self._cache, self._tuning.store)
        owned = AssignedPartition(self._joiner(number, store), Reader(number, self._partitions), store)
        if target is None:
            target = self._first_position(number)
            self._clear(owned)
            owned.joiner.finish_restore(target)
        else:
            owned.restoring = self._restore(owned, target)
        return owned, target

    def _folder(self, number: int) -> Path:
        return self._state_dir / f"partition-{number:05d}"

    def _clear(self, owned: AssignedPartition) -> None:
        owned.store.clear()
        owned.begin_with(self._joiner(owned.number, owned.store), owned.store)

    def _restore(self, owned: AssignedPartition, target: Position) -> Generator[int, None, None]:
        """From the disk if its state is of use, else from the newest checkpoint, else from the log alone."""
        stats = self._stats.restores[owned.number] = RestoreStats(time.monotonic())
        restoration = self._restoration(owned, target, stats)
        fits = restoration.local_state_fits()
        if not fits:
            log.warning("partition %d: no state on disk that can be used", owned.number)
        if not fits or restoration.gap() > _LONG_GAP:
            # Where the disk has a state, only a checkpoint that spares half of the replay is worth its way.
            ahead = target.predictions + target.labels - restoration.gap() // 2 if fits else 0
            if (yield from self._began_with_checkpoint(owned, target, stats, ahead)):
                restoration, fits = self._restoration(owned, target, stats), True
        start = Position()
        if not fits:
            stats.source = "log"
            self._clear(owned)
            restoration = self._restoration(owned, target, stats)
            start = restoration.start()
        log.info("partition %d: restoring from %s", owned.number, stats.source)
        yield from restoration.steps(start)

    def _began_with_checkpoint(
        self, owned: AssignedPartition, target: Position, stats: RestoreStats, at_least: int
    ) -> Generator[int, None, bool]:
        """Exchanges the partition's state for that of the newest checkpoint that is of use."""
        if self._checkpoints is None:
            return False
        begins = Offsets(self._begin(PREDICTIONS, owned.number), self._begin(LABELS, owned.number))
        search = CheckpointSearch(
            self._checkpoints, owned.store.origin, at_least=at_least, begins=begins, target=target
        )
        incoming = self._state_dir / f"partition-{owned.number:05d}.incoming"
        while checkpoint := (yield from _waiting_for(search, incoming)):
            owned.store.close()
            shutil.rmtree(self._folder(owned.number))
            incoming.rename(self._folder(owned.number))
            store = RocksStore(
                self._folder(owned.number), owned.store.origin, self._cache, self._tuning.store
            )
            owned.begin_with(self._joiner(owned.number, store), store)
            if owned.joiner.position == checkpoint.stands_at:
                stats.source, stats.fetched = "checkpoint", checkpoint.size
                return True
            log.error("partition %d: a checkpoint does not hold what it says; not used", owned.number)
        shutil.rmtree(incoming, ignore_errors=True)
        return False

    def _joiner(self, number: int, store: RocksStore) -> Joiner:
        return Joiner(
            number,
            store,
            self._specs.rules,
            vitals_partitions=self._vitals_partitions,
            capacity=self._tuning.memory_ids // self._partitions,
        )

    def _restoration(self, owned: AssignedPartition, target: Position, stats: RestoreStats) -> Restoration:
        return Restoration(
            self._connection,
            self._offsets,
            owned.joiner,
            owned.reader,
            target,
            stats,
            flush_ids=self._tuning.flush_ids,
        )

    def _begin(self, topic: Topic, number: int) -> int:
        return self._offsets.begins(topic, [number])[number]

    def _first_position(self, number: int) -> Position:
        """Where a group that has never committed begins.

        Raises StateError when outcomes say that it has: to begin again would emit all of them once more.
        """
        begins, ends = (
            {topic: ask(topic, [number])[number] for topic in (PREDICTIONS, LABELS, OUTCOMES)}
            for ask in (self._offsets.begins, self._offsets.ends)
        )
        ranges = LogRanges(self._connection, name="join-first")
        try:
            emitted = next(ranges.read(OUTCOMES, {number: (begins[OUTCOMES], ends[OUTCOMES])}), None)
        finally:
            ranges.close()
        if emitted is not None:
            group, outcomes = self._connection.group("join"), self._connection.topic(OUTCOMES)
            raise StateError(
                f"the group {group} has no offsets of partition {number}, but "
                f"{outcomes} has outcomes: its offsets have expired (offsets.retention.minutes) or were "
                "deleted. Set them where vitals end (kafka-consumer-groups --reset-offsets), or delete and "
                "create the topics to begin anew"
            )
        return Position(predictions=begins[PREDICTIONS], labels=begins[LABELS])


def _waiting_for(search: CheckpointSearch, folder: Path) -> Generator[int, None, Checkpoint | None]:
    """Fetches beside the loop, which goes on meanwhile."""
    cancel = threading.Event()
    work = in_background("join-fetch", search.next, folder, cancel)
    try:
        while not wait([work], timeout=_FETCH_POLL_S).done:
            yield 0
    finally:
        cancel.set()  # the partition was revoked meanwhile
        wait([work], timeout=_FETCH_STOPS_S)
    return work.result()
