"""A producer with librdkafka's ways: it repeats what was lost by itself, and classes errors as that does.

From its transaction manager: EndTxn is repeated for as long as it takes, also after its call has run out of
time; the next call goes on with it. Sending offsets repeats every half second and, out of time, requires an
abort. An old epoch, or a transaction in the wrong state, is fatal. A record that fails requires an abort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from tests.simulation.broker.group import CommittedOffset, GroupMetadata
from tests.simulation.broker.log import OK, SentRecord
from tests.simulation.broker.transactions import Place, ProducerId
from tests.simulation.client.installed import Simulated
from tests.simulation.client.metadata import ClusterMetadata
from tests.simulation.client.operation import RETRIED, Operation
from tests.simulation.network import Link, Lost

_FATAL = (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_TXN_STATE)
_FENCED = KafkaError._FENCED  # pyright: ignore[reportPrivateUsage]
_TIMED_OUT = KafkaError._TIMED_OUT  # pyright: ignore[reportPrivateUsage]
_OFFSETS_BACKOFF_S = 0.5
_LINGER_S = 0.005


class Producer(Simulated):
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
        self._client = 0  # this client's number of the transaction
        self._operation: Operation | None = None
        self._queued: dict[Place, list[SentRecord]] = {}
        self._added: set[Place] = set()
        self._registered = False
        self._registering = False
        self._sending: dict[Place, list[SentRecord]] = {}
        self._sequences: dict[Place, int] = {}
        self._lingering = False
        self._failed = 0
        self._bump = False
        if self._name:
            self.sim.renew(self.process, self._name, self)

    def _link(self, name: str, timeout_s: float) -> Link:
        return Link(self.sim.network, self.process, name, self._lines.append, timeout_s=timeout_s)

    def wake(self) -> None:
        self.world.wake(self.process)

    # What every producer has

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
            raise KafkaException(KafkaError(KafkaError._STATE, "no transaction is open"))  # pyright: ignore[reportPrivateUsage]
        self._queued.setdefault(place, []).append(sent)
        if not self._lingering:
            self._lingering = True
            self.world.after(_LINGER_S, self._send)

    def poll(self, timeout: float = 0.0) -> int:
        self.world.check()
        lines, self._lines[:] = list(self._lines), []
        if self._logger is not None:
            for line in lines:
                self._logger.log(10, "%s", line)
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

    # Transactions

    def init_transactions(self, timeout: float = -1) -> None:
        self._check_fatal()
        operation = self._operation
        if operation is None:
            operation = self._operation = self._init()
        self._await(operation, timeout, "init_transactions")
        self._operation = None
        self._id = operation.answer
        self._sequences.clear()

    def _init(self) -> Operation:
        handle = lambda: self.sim.cluster.transactions.init(self._name)  # noqa: E731
        return Operation(self, self._coordinator, "InitProducerId", handle)

    def begin_transaction(self) -> None:
        self._check_fatal()
        self.world.check()
        if self._id is None or self._open:
            raise KafkaException(KafkaError(KafkaError._STATE, "not ready"))  # pyright: ignore[reportPrivateUsage]
        self._open, self._error, self._failed, self._registered = True, None, 0, False
        self._added.clear()
        self._client = self.sim.new_transaction()

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: GroupMetadata, timeout: float = -1
    ) -> None:
        self._check()
        until = self.world.now + (timeout if timeout >= 0 else 60.0)
        cluster, name, producer, client = self.sim.cluster, self._name, self._id, self._client
        assert producer is not None
        offsets = {
            (one.topic, one.partition): CommittedOffset(one.offset, getattr(one, "metadata", None))
            for one in positions
        }
        for link, api, handle in (
            (
                self._coordinator,
                "AddOffsetsToTxn",
                lambda: cluster.transactions.add(name, producer, places=set(), groups={group_metadata.group}),
            ),
            (
                self._leader,
                "TxnOffsetCommit",
                lambda: cluster.commit_offsets(name, producer, group_metadata, offsets, client),
            ),
        ):
            operation = Operation(self, link, api, handle, _OFFSETS_BACKOFF_S)
            done = self.world.wait(lambda: operation.answer is not None, until - self.world.now)  # noqa: B023
            operation.dropped = True
            self._registered = True
            if not done:
                self._abortable(_TIMED_OUT, f"{api} timed out")
            elif operation.answer in _FATAL:
                self._set_fatal(operation.answer)
            elif operation.answer != OK:
                self._abortable(operation.answer, f"{api} failed")
            self._check()

    def commit_transaction(self, timeout: float = -1) -> None:
        self._check()
        if self._operation is None:
            self.flush(timeout)
            self._check()
            if self._queued or self._sending:
                raise KafkaException(KafkaError(_TIMED_OUT, "flush timed out", False, True, False))
            if self._failed:
                self._abortable(KafkaError._INCONSISTENT, "messages failed delivery")  # pyright: ignore[reportPrivateUsage]
                self._check()
            if not self._registered:
                self._open = False
                return
            self._operation = self._end(commit=True)
        self._await(self._operation, timeout, "commit_transaction")
        self._operation, self._open = None, False
        self.sim.acknowledged.add(self._client)

    def abort_transaction(self, timeout: float = -1) -> None:
        self._check_fatal()
        if not self._open:
            raise KafkaException(KafkaError(KafkaError._STATE, "no transaction is open"))  # pyright: ignore[reportPrivateUsage]
        self.purge()
        self.sim.given_up.add(self._client)
        if self._registered:
            operation = self._operation
            if operation is None:
                operation = self._operation = self._end(commit=False)
            self._await(operation, timeout, "abort_transaction")
            self._operation = None
        self._open, self._error = False, None
        if self._bump:
            self._bump, self._id = False, None
            self.init_transactions(timeout)

    def _end(self, *, commit: bool) -> Operation:
        producer = self._id
        assert producer is not None
        handle = lambda: self.sim.cluster.transactions.end(self._name, producer, commit=commit)  # noqa: E731
        return Operation(self, self._coordinator, f"EndTxn {commit}", handle)

    def _await(self, operation: Operation, timeout: float, call: str) -> None:
        """Wait for an operation that goes on by itself if the call runs out of time."""
        if not self.world.wait(lambda: operation.answer is not None, timeout if timeout >= 0 else 60.0):
            raise KafkaException(KafkaError(_TIMED_OUT, f"{call} timed out", False, True, False))
        if operation.answer in _FATAL:
            self._operation = None
            self._set_fatal(operation.answer)
            self._check_fatal(first=True)

    # Errors

    def _abortable(self, code: int, reason: str) -> None:
        if self._error is None and self._fatal is None:
            self.world.trace(f"{self.process.name} must abort: {code} {reason}")
            self._error = KafkaError(code, reason, False, False, True)

    def _set_fatal(self, code: int) -> None:
        if self._fatal is None:
            self.world.trace(f"{self.process.name} fatal: {code}")
            code = code if code == KafkaError.INVALID_TXN_STATE else _FENCED
            self._fatal = KafkaError(code, "fatal", True, False, False)

    def _check_fatal(self, *, first: bool = False) -> None:
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
        if new:
            self._register(new)
        for place in sorted(self._queued.keys() & self._added - self._sending.keys()):
            self._request(place, self._queued.pop(place))

    def _register(self, new: set[Place]) -> None:
        if self._registering:
            return
        producer, client = self._id, self._client
        assert producer is not None
        self._registering = True
        add = self.sim.cluster.transactions.add
        handle = lambda: add(self._name, producer, places=set(new), groups=set())  # noqa: E731

        def answered(answer: Any) -> None:
            if isinstance(answer, Lost) or answer in RETRIED:
                if self._open and client == self._client and not self.replaced:
                    self.world.after(0.02 if answer in RETRIED else 0.006, lambda: ask())
                else:
                    self._registering = False
                return
            self._registering = False
            if client != self._client or not self._open:
                return
            self._registered = True
            if answer in _FATAL:
                self._set_fatal(answer)
            elif answer != OK:
                self._abortable(answer, "AddPartitionsToTxn failed")
            else:
                self._added.update(new)
            self._send()
            self.wake()

        def ask() -> None:
            self._coordinator.request("AddPartitionsToTxn", handle, answered)

        self._registered = True
        ask()

    def _request(self, place: Place, records: list[SentRecord]) -> None:
        self._sending[place] = records
        sequence = self._sequences.get(place, 0)
        self._sequences[place] = sequence + len(records)
        producer, client = self._id, self._client
        assert producer is not None
        batch = {place: (sequence, records)}
        handle = lambda: self.sim.cluster.produce(self._name, producer, batch, client)[place]  # noqa: E731

        def answered(answer: Any) -> None:
            if self.replaced or self._sending.get(place) is not records:
                return  # purged
            if isinstance(answer, Lost):
                self.world.after(0.006, ask)
                return
            del self._sending[place]
            if answer == KafkaError.INVALID_PRODUCER_EPOCH:
                self._set_fatal(answer)
            elif answer != OK:
                self._failed += len(records)
                self._bump = True
                self._abortable(answer, "a message failed")
            self._send()
            self.wake()

        def ask() -> None:
            if not self.replaced and self._sending.get(place) is records:
                self._leader.request(f"Produce {place[0]}[{place[1]}] {len(records)}", handle, answered)

        ask()
