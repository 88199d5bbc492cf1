"""A request that the network delivers late does not act on a later transaction: each input counts once."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES, PREDICTIONS
from driftloop.streams.kafka import transactions as kit
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.kafka.transactions import Aborted, Consumed, Transactions

from tests.support.kafka.late_network import (
    ADD_PARTITIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    HeldRequest,
    KafkaRequest,
    LateNetwork,
)
from tests.support.waiting import wait_until

INPUTS, STEP = 9, 3


def must_abort() -> KafkaException:
    """Return an error of its own each time: one that is kept keeps the producers of the frames it passed."""
    return KafkaException(
        KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "as after a rebalance", False, False, True)
    )


@pytest.fixture
def network(broker: str) -> Iterator[LateNetwork]:
    with LateNetwork(broker) as late:
        yield late


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> list[Producer]:
    """All that are made from now on."""
    made: list[Producer] = []

    def counted(*args: Any, **named: Any) -> Producer:
        made.append(Producer(*args, **named))
        return made[-1]

    monkeypatch.setattr(kit, "Producer", counted)
    return made


@dataclass
class LateFault:
    """A request of the first transaction that is held, and where in the second one it is delivered.

    ``at``: ``produced`` (records are on the log, offsets are not yet sent) or ``offsets sent``.
    """

    held: Callable[[KafkaRequest], bool]
    at: str
    first_aborts: bool = False
    second_aborts: bool = False


FAULTS = {
    "a late commit makes aborted records visible": LateFault(
        lambda request: request.commits, "produced", second_aborts=True
    ),
    "a late commit keeps the offsets of aborted records": LateFault(
        lambda request: request.commits, "offsets sent", second_aborts=True
    ),
    "a late abort drops records whose offsets are committed": LateFault(
        lambda request: request.aborts, "produced", first_aborts=True
    ),
    "late offsets replace newer ones": LateFault(
        lambda request: request.key == TXN_OFFSET_COMMIT, "offsets sent"
    ),
}


class NumberWorker:
    """Passes the numbers 0 to 8 on, three per transaction, with the fault in the first two of them."""

    def __init__(self, direct: Connection, late: Connection, network: LateNetwork, fault: LateFault) -> None:
        self._direct, self._late, self._network, self._fault = direct, late, network, fault
        self._consumer = Consumer(direct.consumer("ledger"))
        self._input, self._output = direct.topic(PREDICTIONS), direct.topic(OUTCOMES)
        self._transactions = self._started()
        self._held: HeldRequest | None = None
        self._turn = 0

    def run(self) -> None:
        try:
            self._transactions.run(lambda: None)  # connections are up
            position = 0
            while position < INPUTS:
                position = self._transaction(position)
        finally:
            self._transactions.close()
            self._consumer.close()

    def _transaction(self, position: int) -> int:
        self._turn += 1
        turn, fault = self._turn, self._fault
        if turn == 1:
            transactional_id = f"{self._late.prefix}doubt"
            self._held = self._network.hold(lambda it: it.of(transactional_id) and fault.held(it))

        def write() -> None:
            for number in range(position, position + STEP):
                self._transactions.send(self._output, str(number).encode(), partition=0)
            if fault.at == "produced":
                self._transactions.flush()
            if turn == 1 and fault.first_aborts:
                raise must_abort()

        def observe(step: str) -> None:
            if turn == 2 and step == fault.at:
                self._deliver()
                if fault.second_aborts:
                    raise must_abort()

        consumed = Consumed(
            [TopicPartition(self._input, 0, position + STEP)], self._consumer.consumer_group_metadata()
        )
        try:
            self._transactions.run(write, consumed, observe=observe)
        except Aborted:
            return self._committed()
        except BrokerError:  # the process ends, and its successor begins
            self._transactions.close()
            self._transactions = self._started()
            return self._committed()
        return position + STEP if turn == 1 else self._committed()  # as a process that is restarted

    def _deliver(self) -> None:
        assert self._held is not None
        self._held.deliver()

    def _started(self) -> Transactions:
        made = Transactions(self._late, "doubt", linger_ms=300)
        made.start()
        return made

    def _committed(self) -> int:
        (found,) = self._consumer.committed([TopicPartition(self._input, 0)], timeout=30)
        return max(found.offset, 0)


def damage(connection: Connection) -> tuple[list[int], list[int]]:
    """The numbers that no reader sees, and those that readers see twice."""
    reader = LogReader(connection, (OUTCOMES,))
    seen = Counter(int(record.value or b"") for record in reader.catch_up())
    reader.close()
    return [n for n in range(INPUTS) if not seen[n]], [n for n in range(INPUTS) if seen[n] > 1]


def through(network: LateNetwork, direct: Connection) -> Connection:
    return Connection(network.address, direct.prefix, {"reconnect.backoff.max.ms": "150"})


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_late_request_neither_loses_nor_repeats(
    topics: Connection, network: LateNetwork, fault: LateFault
) -> None:
    NumberWorker(topics, through(network, topics), network, fault).run()
    assert damage(topics) == ([], [])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_librdkafka_alone_still_needs_the_new_producer(
    topics: Connection, network: LateNetwork, fault: LateFault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once this fails for every fault, librdkafka refuses late requests itself: drop ``doubt``."""
    monkeypatch.setattr(Transactions, "_replace_in_doubt", lambda _self: None)
    NumberWorker(topics, through(network, topics), network, fault).run()
    assert damage(topics) != ([], [])


def test_every_lost_request_is_known_before_the_next_begin_and_no_other_is(
    topics: Connection, network: LateNetwork, producers: list[Producer]
) -> None:
    late = through(network, topics)
    transactions = Transactions(late, "contract", linger_ms=0)
    transactions.start()

    def transaction() -> None:
        transactions.run(lambda: transactions.send(topics.topic(OUTCOMES), b"1", partition=0))

    for _ in range(100):
        transaction()
    assert len(producers) == 1, "a new producer without a doubt"
    for cuts, key in enumerate([END_TXN, ADD_PARTITIONS, END_TXN, PRODUCE] * 5):
        held = network.hold(lambda request, key=key: request.key == key)
        transaction()  # librdkafka repeats the request that was held, and says nothing
        assert held.taken.is_set()
        transaction()
        assert len(producers) == 2 + cuts, "a request was left behind, and the same producer went on"
    transactions.close()


def test_a_request_whose_connection_is_closed_for_being_idle_is_known(
    topics: Connection, network: LateNetwork, producers: list[Producer]
) -> None:
    transactions = Transactions(through(network, topics), "idle", linger_ms=0, connections_max_idle_ms=2_000)
    transactions.start()

    def transaction() -> None:
        transactions.run(lambda: transactions.send(topics.topic(OUTCOMES), b"1", partition=0))

    transaction()
    before = len(producers)
    network.hold(lambda request: request.commits, cut=False)
    transaction()  # the request waits until its connection is closed, and is repeated
    transaction()
    assert len(producers) > before, "a request was left behind, and the same producer went on"
    transactions.close()


def test_a_connection_closed_for_being_idle_at_rest_is_no_doubt(
    topics: Connection, producers: list[Producer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    talkative = Connection(topics.bootstrap_servers, topics.prefix, {"log_level": 7})
    transactions = Transactions(talkative, "rest", linger_ms=0, connections_max_idle_ms=1_000)
    transactions.start()

    def transaction() -> float:
        begun_s = time.monotonic()
        transactions.run(lambda: transactions.send(topics.topic(OUTCOMES), b"1", partition=0))
        return time.monotonic() - begun_s

    def is_closed() -> bool:
        transactions.tend()
        return "idle time exceeded" in caplog.text

    wait_until(lambda: transaction() < 0.5, "a transaction that is shorter than the idle time")
    before = len(producers)
    caplog.clear()
    wait_until(is_closed, "an idle connection to be closed")
    transaction()
    assert len(producers) == before, "a new producer without a doubt"
    transactions.close()


def test_a_start_that_is_late_ends_its_own_producer_with_a_reason(
    topics: Connection, network: LateNetwork
) -> None:
    held = network.hold(lambda request: request.key == INIT_PRODUCER_ID)
    transactions = Transactions(through(network, topics), "start", linger_ms=0)
    transactions.start()

    def transaction() -> None:
        transactions.run(lambda: transactions.send(topics.topic(OUTCOMES), b"1", partition=0))

    transaction()
    wait_until(lambda: error_of(held.deliver()) == 0, "the broker to be done with the transaction")
    fenced = (
        r"Kafka has fenced this producer, .* Either another process .* Or .* a request of its start came late"
    )
    with pytest.raises(BrokerError, match=fenced):
        transaction()
    with pytest.raises(
        BrokerError, match="Kafka has fenced this producer"
    ):  # by an earlier error, says librdkafka
        transaction()
    transactions.close()


def test_who_stood_still_for_longer_than_a_transaction_may_take_is_told_so(topics: Connection) -> None:
    transactions = Transactions(topics, "frozen", transaction_timeout_ms=1_000)
    transactions.start()
    offsets = LogOffsets(topics)
    began = time.monotonic()

    def write() -> None:
        transactions.send(topics.topic(OUTCOMES), b"1", partition=0)
        transactions.flush()
        wait_until(lambda: offsets.ends(OUTCOMES, [0])[0] == 2, "the broker to abort the transaction")

    with pytest.raises(BrokerError) as error:
        transactions.run(write)
    took = re.search(r"fenced this producer, ([\d.]+) s after the transaction began", str(error.value))
    assert took is not None
    assert 1.0 < float(took.group(1)) < time.monotonic() - began + 0.1
    assert "stood still for longer than 1 s (transaction.timeout.ms)" in str(error.value)
    transactions.close()


def error_of(response: bytes) -> int:
    """The error of an InitProducerId (v4): after its header's tags and the time to throttle."""
    return int.from_bytes(response[5:7], "big")


def impatient(transactions: Transactions) -> Transactions:
    """Started, and from now on sure after half a second that nobody answers."""
    transactions.start()
    transactions._call_s = transactions._timeout_s = 0.5
    return transactions


def test_closing_does_not_wait_for_a_broker_that_is_away(topics: Connection, broker: str) -> None:
    with ExitStack() as stack:
        late = through(stack.enter_context(LateNetwork(broker)), topics)
        transactions = impatient(Transactions(late, "away"))

        def write() -> None:
            transactions.send(topics.topic(OUTCOMES), b"1", partition=0)
            transactions.flush()
            stack.close()

        with pytest.raises(BrokerError, match="_TIMED_OUT"):
            transactions.run(write)
        closing = threading.Thread(target=transactions.close, daemon=True)
        closing.start()
        closing.join(120)
        assert not closing.is_alive()


def test_a_transaction_that_nobody_can_abort_now_is_ended_by_the_next_producer(
    topics: Connection, broker: str
) -> None:
    away = ExitStack()
    late = through(away.enter_context(LateNetwork(broker)), topics)
    transactions = impatient(Transactions(late, "aborted"))

    def write() -> None:
        away.close()
        raise must_abort()

    with pytest.raises(Aborted):
        transactions.run(write)
    with pytest.raises(BrokerError):  # the new producer finds nobody either
        transactions.run(lambda: None)
    transactions.close()
