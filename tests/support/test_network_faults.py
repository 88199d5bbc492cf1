"""Network faults before a real broker: frames are kept back, delayed, held or cut, and nothing is lost."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.kafka.late_network import END_TXN, PRODUCE, KafkaRequest, LateNetwork
from tests.support.kafka.network_faults import FaultyGate
from tests.support.waiting import wait_until


class WatchedGate(FaultyGate):
    """Knows every request that came to it."""

    def __init__(self, network: LateNetwork, chance: random.Random) -> None:
        super().__init__(network, chance)
        self.came: list[KafkaRequest] = []

    async def request(self, request: KafkaRequest) -> bytes:
        self.came.append(request)
        return await super().request(request)


@pytest.fixture
def gate(network: LateNetwork) -> WatchedGate:
    return WatchedGate(network, random.Random(1))


def produced(producer: Producer, topic: str, *values: bytes) -> list[int]:
    """Offsets, as they come; empty until the broker answers."""
    offsets: list[int] = []

    def came(error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        offsets.append(message.offset() or 0)

    for value in values:
        producer.produce(topic, value, on_delivery=came)
    return offsets


def log_end(broker: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "none"})
    try:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
    finally:
        consumer.close()


def answered(producer: Producer, offsets: list[int], count: int) -> Callable[[], bool]:
    def all_came() -> bool:
        producer.poll(0.01)
        return len(offsets) == count

    return all_came


@pytest.fixture
def producer(network: LateNetwork) -> Producer:
    return Producer({"bootstrap.servers": network.address, "linger.ms": 0, "enable.idempotence": True})


@pytest.fixture
def topic(broker: str, producer: Producer) -> str:
    name = f"faults-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    first = produced(producer, name, b"first")
    wait_until(answered(producer, first, 1), "the first record is acknowledged")
    return name


def test_clients_stay_on_the_network_of_each_node(network: LateNetwork, broker: str) -> None:
    network.lead({"127.0.0.1:65001": "127.0.0.1:65002"})
    nodes = AdminClient({"bootstrap.servers": network.address}).list_topics(timeout=30).brokers.values()
    assert [f"{node.host}:{node.port}" for node in nodes] == [network.address] != [broker]


def test_requests_arrive_and_answers_do_not(
    gate: FaultyGate, producer: Producer, topic: str, broker: str
) -> None:
    gate.stop(answers=True)
    offsets = produced(producer, topic, b"second")
    wait_until(lambda: producer.poll(0.01) == 0 and log_end(broker, topic) == 2, "the record is on the log")
    assert offsets == []
    gate.heal(cut=True)
    wait_until(answered(producer, offsets, 1), "it is acknowledged")
    assert offsets == [1]
    assert log_end(broker, topic) == 2


def test_neither_request_nor_answer_arrives_and_the_request_is_lost(
    gate: WatchedGate, producer: Producer, topic: str, broker: str
) -> None:
    gate.stop(requests=True)
    before = len(gate.came)
    offsets = produced(producer, topic, b"second")
    wait_until(lambda: producer.poll(0.01) == 0 and len(gate.came) > before, "a request is kept back")
    assert (offsets, log_end(broker, topic)) == ([], 1)
    gate.heal(cut=True)
    wait_until(answered(producer, offsets, 1), "it is sent again")
    assert log_end(broker, topic) == 2


def test_a_stall_delivers_everything_in_the_end(gate: WatchedGate, producer: Producer, topic: str) -> None:
    gate.stop(requests=True, answers=True)
    before = len(gate.came)
    offsets = produced(producer, topic, b"second")
    wait_until(lambda: producer.poll(0.01) == 0 and len(gate.came) > before, "a request is kept back")
    assert offsets == []
    gate.heal(cut=False)
    wait_until(answered(producer, offsets, 1), "it is acknowledged")


def test_a_delay_slows_and_loses_nothing(gate: FaultyGate, producer: Producer, topic: str) -> None:
    gate.delay(0.2)
    offsets = produced(producer, topic, *(b"%d" % number for number in range(50)))
    wait_until(answered(producer, offsets, 50), "all are acknowledged")
    assert offsets == list(range(1, 51))


def test_a_held_produce_arrives_twice_and_counts_once(
    gate: FaultyGate, producer: Producer, topic: str, broker: str
) -> None:
    gate.hold(PRODUCE, 0.05)
    offsets = produced(producer, topic, b"second")
    wait_until(answered(producer, offsets, 1), "it is acknowledged")
    assert [request.key for request in gate.held] == [PRODUCE]
    assert log_end(broker, topic) == 2


def test_a_held_end_of_a_transaction_is_sent_again_by_the_client(
    gate: FaultyGate, network: LateNetwork, topic: str
) -> None:
    producer = Producer({"bootstrap.servers": network.address, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"second")
    gate.hold(END_TXN, 0.05)
    producer.commit_transaction(30)
    assert [request.commits for request in gate.held] == [True]


def test_all_connections_are_cut_and_clients_come_back(
    network: LateNetwork, producer: Producer, topic: str
) -> None:
    network.cut()
    offsets = produced(producer, topic, b"second")
    wait_until(answered(producer, offsets, 1), "it is acknowledged over a new connection")
