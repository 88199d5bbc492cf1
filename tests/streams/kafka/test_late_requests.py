"""A request that the network delivers late does not act on a later transaction: each input counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES, PREDICTIONS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.transactions import Aborted, Consumed, Transactions

from tests.support.kafka.late_network import (
    INIT_PRODUCER_ID,
    TXN_OFFSET_COMMIT,
    HeldRequest,
    KafkaRequest,
    LateNetwork,
)
from tests.support.kafka.topics import read_topic
from tests.support.waiting import wait_until

INPUTS, STEP = 9, 3


def must_abort() -> KafkaException:
    """Return an error of its own each time: one that is kept keeps the producers of the frames it passed."""
    return KafkaException(
        KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "as after a rebalance", False, False, True)
    )


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
    seen = Counter(int(record.value or b"") for record in read_topic(connection, OUTCOMES))
    return [n for n in range(INPUTS) if not seen[n]], [n for n in range(INPUTS) if seen[n] > 1]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_late_request_neither_loses_nor_repeats(
    topics: Connection, late: Connection, network: LateNetwork, fault: LateFault
) -> None:
    NumberWorker(topics, late, network, fault).run()
    assert damage(topics) == ([], [])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_librdkafka_alone_still_needs_the_new_producer(
    topics: Connection,
    late: Connection,
    network: LateNetwork,
    fault: LateFault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once this fails for every fault, librdkafka refuses late requests itself: drop ``doubt``."""
    monkeypatch.setattr(Transactions, "_replace_in_doubt", lambda _self: None)
    NumberWorker(topics, late, network, fault).run()
    assert damage(topics) != ([], [])


def test_a_start_that_is_late_ends_its_own_producer_with_a_reason(
    topics: Connection, late: Connection, network: LateNetwork
) -> None:
    held = network.hold(lambda request: request.key == INIT_PRODUCER_ID)
    transactions = Transactions(late, "start", linger_ms=0)
    transactions.start()

    def transaction() -> None:
        transactions.run(lambda: transactions.send(topics.topic(OUTCOMES), b"1", partition=0))

    transaction()
    wait_until(lambda: error_of(held.deliver()) == 0, "the broker to be done with the transaction")
    fenced = "Kafka has fenced this producer"
    reasons = f"{fenced}, .* Either another process .* Or .* a request of its start came late"
    with pytest.raises(BrokerError, match=reasons):
        transaction()
    with pytest.raises(BrokerError, match=fenced):  # by an earlier error, says librdkafka
        transaction()
    transactions.close()


def error_of(response: bytes) -> int:
    """The error of an InitProducerId (v4): after its header's tags and the time to throttle."""
    return int.from_bytes(response[5:7], "big")
