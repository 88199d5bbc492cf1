"""Opening an assigned input partition: its store, what of it can be used, and what is left to restore."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import cast

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription

from ..schemas.errors import BrokerError, StateError, TopicError
from ..schemas.topics import LABELS, OUTCOMES, PREDICTIONS, VITALS
from .connection import Connection
from .join_batch import Reader
from .join_partition import AssignedPartition
from .join_restore import Restoration
from .join_specs import SpecFollower
from .join_state import Position
from .join_store import Origin, RocksStore, shared_cache
from .join_tuning import JoinTuning
from .joiner import Joiner
from .log_ranges import LogOffsets, LogRanges

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0


class PartitionOpener:
    """Opens partitions of one process."""

    def __init__(
        self,
        connection: Connection,
        offsets: LogOffsets,
        specs: SpecFollower,
        state_dir: Path,
        tuning: JoinTuning,
    ) -> None:
        """Raises TopicError when the topics do not fit each other, BrokerError when nobody answers."""
        self._connection, self._offsets, self._specs = connection, offsets, specs
        self._state_dir, self._tuning = state_dir, tuning
        self._cache = shared_cache(tuning.store)
        counts = {topic.name: len(offsets.partitions(topic)) for topic in (PREDICTIONS, LABELS, OUTCOMES)}
        if len(set(counts.values())) > 1:
            raise TopicError(f"these must have the same number of partitions: {counts}")
        self._partitions = counts[PREDICTIONS.name]
        self._vitals_partitions = len(offsets.partitions(VITALS))
        self._cluster, self._topic_ids = self._identities()

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
        folder = self._state_dir / f"partition-{number:05d}"
        store = RocksStore(folder, origin, self._cache, self._tuning.store)
        reader = Reader(number, self._partitions)
        if target is None:
            target = self._first_position(number)
            store.clear()
            joiner = self._joiner(number, store)
            joiner.resume(target)
            return AssignedPartition(joiner, reader, store, None), target
        joiner = self._joiner(number, store)
        restoration = self._restoration(joiner, reader, target)
        start = Position()
        if not restoration.local_state_fits():
            log.warning("partition %d: no state on disk that can be used; restoring it from the log", number)
            store.clear()
            joiner = self._joiner(number, store)
            restoration = self._restoration(joiner, reader, target)
            start = restoration.start()
        return AssignedPartition(joiner, reader, store, restoration.steps(start)), target

    def _joiner(self, number: int, store: RocksStore) -> Joiner:
        return Joiner(
            number,
            store,
            self._specs.rules,
            vitals_partitions=self._vitals_partitions,
            capacity=self._tuning.memory_ids // self._partitions,
        )

    def _restoration(self, joiner: Joiner, reader: Reader, target: Position) -> Restoration:
        return Restoration(
            self._connection, self._offsets, joiner, reader, target, flush_ids=self._tuning.flush_ids
        )

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
