"""A producer that may have left a request behind is replaced before the next transaction, and no other is."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from confluent_kafka import Producer
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka import transactions as kit
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.transactions import Transactions

from tests.support.kafka.late_network import ADD_PARTITIONS, END_TXN, PRODUCE, LateNetwork
from tests.support.waiting import wait_until


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> list[Producer]:
    """All that are made from now on."""
    made: list[Producer] = []

    def counted(*args: Any, **named: Any) -> Producer:
        made.append(Producer(*args, **named))
        return made[-1]

    monkeypatch.setattr(kit, "Producer", counted)
    return made


def transact(transactions: Transactions, topics: Connection) -> None:
    """A transaction of one record."""
    transactions.run(lambda: transactions.send(topics.topic(OUTCOMES), b"1", partition=0))


def test_every_lost_request_is_known_before_the_next_begin_and_no_other_is(
    topics: Connection, late: Connection, network: LateNetwork, producers: list[Producer]
) -> None:
    transactions = Transactions(late, "contract", linger_ms=0)
    transactions.start()
    for _ in range(100):
        transact(transactions, topics)
    assert len(producers) == 1, "a new producer without a doubt"
    for cuts, key in enumerate([END_TXN, ADD_PARTITIONS, END_TXN, PRODUCE] * 5):
        held = network.hold(lambda request, key=key: request.key == key)
        transact(transactions, topics)  # librdkafka repeats the request that was held, and says nothing
        assert held.taken.is_set()
        transact(transactions, topics)
        assert len(producers) == 2 + cuts, "a request was left behind, and the same producer went on"
    transactions.close()


def test_a_request_whose_connection_is_closed_for_being_idle_is_known(
    topics: Connection, late: Connection, network: LateNetwork, producers: list[Producer]
) -> None:
    transactions = Transactions(late, "idle", linger_ms=0, connections_max_idle_ms=2_000)
    transactions.start()
    transact(transactions, topics)
    before = len(producers)
    network.hold(lambda request: request.commits, cut=False)
    transact(transactions, topics)  # the request waits until its connection is closed, and is repeated
    transact(transactions, topics)
    assert len(producers) > before, "a request was left behind, and the same producer went on"
    transactions.close()


def test_a_connection_closed_for_being_idle_at_rest_is_no_doubt(
    topics: Connection, producers: list[Producer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    talkative = Connection(topics.bootstrap_servers, topics.prefix, {"log_level": 7})
    transactions = Transactions(talkative, "rest", linger_ms=0, connections_max_idle_ms=1_000)
    transactions.start()

    def took_s() -> float:
        begun_s = time.monotonic()
        transact(transactions, topics)
        return time.monotonic() - begun_s

    def is_closed() -> bool:
        transactions.tend()
        return "idle time exceeded" in caplog.text

    wait_until(lambda: took_s() < 0.5, "a transaction that is shorter than the idle time")
    before = len(producers)
    caplog.clear()
    wait_until(is_closed, "an idle connection to be closed")
    transact(transactions, topics)
    assert len(producers) == before, "a new producer without a doubt"
    transactions.close()
