"""The transaction coordinator, as it treats clients that speak EndTxn before version 5.

An epoch stands for all transactions of one producer. So an EndTxn that is late ends whatever the same epoch
has open by then; only an epoch that InitProducerId, or the transaction's timeout, has raised refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError

from tests.simulation.broker.log import OK
from tests.simulation.clock import VirtualWorld

Place = tuple[str, int]
_TIMEOUT_S = 10.0


class ProducerId(NamedTuple):
    number: int
    epoch: int


@dataclass(slots=True)
class _Transactional:
    number: int
    epoch: int = -1
    state: str = "empty"  # open, committing, aborting, committed, aborted
    places: set[Place] = field(default_factory=set[Place])
    groups: set[str] = field(default_factory=set[str])
    began: int = 0


class TransactionCoordinator:
    """``mark``: writes a transaction's end to a place or to a group."""

    def __init__(
        self,
        world: VirtualWorld,
        mark: Callable[[Place, ProducerId, bool], None],
        mark_group: Callable[[str, ProducerId, bool], None],
    ) -> None:
        self._world, self._mark, self._mark_group = world, mark, mark_group
        self._known: dict[str, _Transactional] = {}
        self._begun = 0

    def init(self, name: str) -> ProducerId | int:
        """A new epoch, once what an older one has open is ended; else an error."""
        one = self._known.setdefault(name, _Transactional(1000 + len(self._known)))
        if one.state == "open":
            one.epoch += 1  # the older producer is fenced at once
            self._end(one, commit=False)
        if one.state in ("committing", "aborting"):
            return KafkaError.CONCURRENT_TRANSACTIONS
        one.epoch += 1
        one.state = "empty"
        return ProducerId(one.number, one.epoch)

    def add(self, name: str, producer: ProducerId, *, places: set[Place], groups: set[str]) -> int:
        one = self._known[name]
        if producer.epoch != one.epoch:
            return KafkaError.INVALID_PRODUCER_EPOCH
        if one.state in ("committing", "aborting"):
            return KafkaError.CONCURRENT_TRANSACTIONS
        if one.state != "open":
            one.state = "open"
            one.places, one.groups = set(), set()
            self._begun += 1
            began = one.began = self._begun
            self._world.after(_TIMEOUT_S, lambda: self._expire(one, began))
        one.places |= places
        one.groups |= groups
        return OK

    def end(self, name: str, producer: ProducerId, *, commit: bool) -> int:
        one = self._known[name]
        if producer.epoch != one.epoch:
            return KafkaError.INVALID_PRODUCER_EPOCH
        if one.state == "open":
            self._end(one, commit=commit)
            return OK
        done, under_way = ("committed", "committing") if commit else ("aborted", "aborting")
        if one.state == done:
            return OK
        return KafkaError.CONCURRENT_TRANSACTIONS if one.state == under_way else KafkaError.INVALID_TXN_STATE

    def verify(self, name: str, producer: ProducerId, *, place: Place | None, group: str | None) -> int:
        """Whether a record or an offset belongs to the transaction that is open."""
        one = self._known[name]
        if producer.epoch != one.epoch:
            return KafkaError.INVALID_PRODUCER_EPOCH
        if one.state != "open" or not (place in one.places or group in one.groups):
            return KafkaError.INVALID_TXN_STATE
        return OK

    def _expire(self, one: _Transactional, began: int) -> None:
        if one.state == "open" and one.began == began:
            self._world.trace(f"transaction {began} timed out")
            one.epoch += 1
            self._end(one, commit=False)

    def _end(self, one: _Transactional, *, commit: bool) -> None:
        one.state = "committing" if commit else "aborting"
        producer = ProducerId(one.number, one.epoch)

        def write() -> None:
            for place in sorted(one.places):
                self._mark(place, producer, commit)
            for group in sorted(one.groups):
                self._mark_group(group, producer, commit)
            one.state = "committed" if commit else "aborted"

        self._world.after(self._world.rng.choice((0.0005, 0.001, 0.003, 0.03)), write)
