"""A cluster of one broker: its topics, its coordinators, and who waits for records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.simulation.broker.group import CommittedOffset, Group, GroupMetadata
from tests.simulation.broker.log import OK, PartitionLog, SentRecord
from tests.simulation.broker.transactions import Place, ProducerId, TransactionCoordinator
from tests.simulation.clock import EPOCH_S, VirtualWorld


class SimulatedCluster:
    def __init__(self, world: VirtualWorld, partitions: Mapping[str, int]) -> None:
        """``partitions``: how many each topic has, by its full name."""
        self.world = world
        self.partitions = dict(partitions)
        self.readers: list[Callable[[Place], None]] = []
        self.logs: dict[Place, PartitionLog] = {
            (topic, number): PartitionLog(self.now_ms, lambda place=(topic, number): self._moved(place))
            for topic, count in partitions.items()
            for number in range(count)
        }
        self.groups: dict[str, Group] = {}
        self.transactions = TransactionCoordinator(world, self._mark, self._mark_group)

    def now_ms(self) -> int:
        return int((EPOCH_S + self.world.now) * 1000)

    def group(self, name: str) -> Group:
        if name not in self.groups:
            self.groups[name] = Group(self.world, name, self.partitions)
        return self.groups[name]

    def produce(
        self,
        name: str,
        producer: ProducerId,
        place: Place,
        sequence: int,
        records: list[SentRecord],
        transaction: int,
    ) -> int:
        """Append to the open transaction; return an error. ``sequence``: of the first record."""
        log, error = self.logs[place], OK
        if not log.is_open(producer.number):
            error = self.transactions.verify(name, producer, place=place, group=None)
        return error or log.append_open(records, producer.number, producer.epoch, sequence, transaction)

    def commit_offsets(
        self,
        name: str,
        producer: ProducerId,
        given: GroupMetadata,
        offsets: dict[Place, CommittedOffset],
        transaction: int,
    ) -> int:
        error = self.transactions.verify(name, producer, place=None, group=given.group)
        return error or self.group(given.group).commit_open(given, producer.number, offsets, transaction)

    def _mark(self, place: Place, producer: ProducerId, commit: bool) -> None:
        self.logs[place].mark(producer.number, producer.epoch, commit=commit)

    def _mark_group(self, group: str, producer: ProducerId, commit: bool) -> None:
        self.group(group).mark(producer.number, commit=commit)

    def _moved(self, place: Place) -> None:
        for notify in self.readers:
            notify(place)
