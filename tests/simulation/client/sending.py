"""A producer's records on their way, in its transaction: one request of each partition at a time.

Errors are classed as by librdkafka's transaction manager: an old epoch, or a transaction in the wrong state,
is fatal; a record that fails requires an abort.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from tests.simulation.broker.log import OK, SentRecord
from tests.simulation.broker.transactions import Place, ProducerId
from tests.simulation.client.errors import FENCED, wrong_state
from tests.simulation.client.metadata import ClusterMetadata
from tests.simulation.client.operation import Operation
from tests.simulation.client.simulated import Simulated
from tests.simulation.network import Link

FATAL = (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_TXN_STATE)
_LINGER_S = 0.005


class SendingProducer(Simulated):
    """What a producer does but for beginning and ending transactions."""

    def __init__(self, config: Mapping[str, Any], *, logger: Any = None) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._logger = logger if "broker" in str(config.get("debug", "")) else None
        self._name = str(config.get("transactional.id", ""))
        timeout_s = (int(config.get("transaction.timeout.ms", 60_000)) - 100) / 1000
        self._coordinator = self._link("txn", timeout_s)
        self._leader = self._link("data", timeout_s)
        self.replaced = False
        self._id: ProducerId | None = None
        self._error: KafkaError | None = None  # that requires an abort
        self._fatal: KafkaError | None = None
        self._open = False
        self._transaction = 0  # its number in this simulation
        self._operation: Operation | None = None
        self._queued: dict[Place, list[SentRecord]] = {}
        self._added: set[Place] = set()
        self._adding: Operation | None = None  # which makes the coordinator know partitions
        self._registered = False  # whether the coordinator may know of the transaction
        self._sending: dict[Place, list[SentRecord]] = {}
        self._sequences: dict[Place, int] = {}
        self._lingering = False
        self._failed = 0
        self._bump = False
        if self._name:
            self.sim.renew(self.process, self._name, self)

    def _link(self, name: str, timeout_s: float) -> Link:
        return Link(self.sim.network, self.process, name, self._lines.append, timeout_s=timeout_s)

    def _ask(
        self,
        link: Link,
        api: str,
        handle: Callable[[], Any],
        *,
        then: Callable[[Any], None] | None = None,
        wanted: Callable[[], bool] = lambda: True,
        **options: float,
    ) -> Operation:
        return Operation(
            link,
            api,
            handle,
            then or self._wake,
            wanted=lambda: self.process.alive and not self.replaced and wanted(),
            **options,
        )

    def _wake(self, _answer: object = None) -> None:
        self.world.wake(self.process)

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: str | bytes | None = None,
        partition: int = -1,
        *,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        on_delivery: Callable[[KafkaError | None, Message], None] | None = None,
    ) -> None:
        self.world.check()
        key = key.encode() if isinstance(key, str) else key
        place = topic, self.sim.partition(topic, key, partition)
        sent = SentRecord(key, value, list(headers) if headers else None)
        if not self._name:
            log = self.sim.cluster.logs[place]
            self.world.after(self.sim.network.latency(), lambda: log.append([sent]))
            return
        if not self._open:
            raise wrong_state("no transaction is open")
        self._queued.setdefault(place, []).append(sent)
        if not self._lingering:
            self._lingering = True
            self.world.after(_LINGER_S, self._send)

    def poll(self, timeout: float = 0.0) -> int:
        self.world.check()
        if self._logger is not None:
            for line in self._lines:
                self._logger.log(logging.DEBUG, "%s", line)
        self._lines.clear()
        return 0

    def flush(self, timeout: float = -1) -> int:
        self.world.check()
        if self._name:
            self._send()
            self.world.wait(lambda: not self._queued and not self._sending, timeout if timeout >= 0 else 1e9)
        self.poll(0)
        return len(self._queued) + len(self._sending)

    def purge(self) -> None:
        self.world.check()
        self._bump = self._bump or bool(self._sending)
        self._queued.clear()
        self._sending.clear()

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:
        return self.sim.metadata(topic)

    @property
    def _producer(self) -> ProducerId:
        assert self._id is not None
        return self._id

    # Errors

    def _abortable(self, code: int, reason: str) -> None:
        if self._error is None and self._fatal is None:
            self.world.trace(f"{self.process.name} must abort: {code} {reason}")
            self._error = KafkaError(code, reason, False, False, True)

    def _set_fatal(self, code: int) -> None:
        if self._fatal is None:
            self.world.trace(f"{self.process.name} fatal: {code}")
            code = code if code == KafkaError.INVALID_TXN_STATE else FENCED
            self._fatal = KafkaError(code, "fatal", True, False, False)

    def _check_fatal(self) -> None:
        self.world.check()
        if self._fatal is not None:
            raise KafkaException(self._fatal)

    def _check(self) -> None:
        self._check_fatal()
        if self._error is not None:
            raise KafkaException(self._error)

    # Records on their way: one request of each partition at a time

    def _send(self) -> None:
        self._lingering = False
        if not self._open or self._fatal is not None or self.replaced or not self.process.alive:
            return
        if self._error is not None:
            self._queued.clear()
            return
        new = self._queued.keys() - self._added
        if new and self._adding is None:
            self._add(new)
        for place in sorted(self._queued.keys() & self._added - self._sending.keys()):
            self._request(place, self._queued.pop(place))

    def _add(self, new: set[Place]) -> None:
        """Add partitions to the transaction; their records are sent after that."""
        cluster, name, producer, transaction = self.sim.cluster, self._name, self._producer, self._transaction

        def answered(answer: int) -> None:
            self._adding = None
            if answer in FATAL:
                self._set_fatal(answer)
            elif answer != OK:
                self._abortable(answer, "AddPartitionsToTxn failed")
            else:
                self._added.update(new)
            self._send()
            self._wake()

        self._registered = True
        self._adding = self._ask(
            self._coordinator,
            "AddPartitionsToTxn",
            lambda: cluster.transactions.add(name, producer, places=new, groups=set()),
            then=answered,
            wanted=lambda: self._open and transaction == self._transaction,
        )

    def _request(self, place: Place, records: list[SentRecord]) -> None:
        sequence = self._sequences.get(place, 0)
        self._sequences[place] = sequence + len(records)
        self._sending[place] = records
        cluster, name, producer, transaction = self.sim.cluster, self._name, self._producer, self._transaction

        def answered(answer: int) -> None:
            del self._sending[place]
            if answer == KafkaError.INVALID_PRODUCER_EPOCH:
                self._set_fatal(answer)
            elif answer != OK:
                self._failed += len(records)
                self._bump = True
                self._abortable(answer, "a message failed")
            self._send()
            self._wake()

        self._ask(
            self._leader,
            f"Produce {place[0]}[{place[1]}] {len(records)}",
            lambda: cluster.produce(name, producer, place, sequence, records, transaction),
            then=answered,
            wanted=lambda: self._sending.get(place) is records,  # else it was purged
        )
