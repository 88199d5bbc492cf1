"""Transactions that their producer cannot finish: the broker has aborted one, or is away."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack

import pytest
from confluent_kafka import KafkaError, KafkaException
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.transactions import Aborted, Transactions

from tests.support.kafka.late_network import LateNetwork
from tests.support.waiting import wait_until


def test_who_stood_still_for_longer_than_a_transaction_may_take_learns_that(topics: Connection) -> None:
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


def impatient(connection: Connection, name: str) -> Transactions:
    """Started, and from now on sure after half a second that nobody answers."""
    transactions = Transactions(connection, name)
    transactions.start()
    transactions._call_s = transactions._timeout_s = 0.5
    return transactions


def test_closing_does_not_wait_for_a_broker_that_is_away(topics: Connection, broker: str) -> None:
    with ExitStack() as away:
        network = away.enter_context(LateNetwork(broker))
        transactions = impatient(Connection(network.address, topics.prefix), "away")

        def write() -> None:
            transactions.send(topics.topic(OUTCOMES), b"1", partition=0)
            transactions.flush()
            away.close()

        with pytest.raises(BrokerError, match="_TIMED_OUT"):
            transactions.run(write)
        closing = threading.Thread(target=transactions.close, daemon=True)
        closing.start()
        closing.join(120)
        assert not closing.is_alive()


def test_a_transaction_that_nobody_can_abort_now_is_ended_by_the_next_producer(
    topics: Connection, broker: str
) -> None:
    with ExitStack() as away:
        network = away.enter_context(LateNetwork(broker))
        transactions = impatient(Connection(network.address, topics.prefix), "aborted")

        def write() -> None:
            away.close()
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "rebalanced", False, False, True))

        with pytest.raises(Aborted):
            transactions.run(write)
        with pytest.raises(BrokerError):  # the new producer finds nobody either
            transactions.run(lambda: None)
        transactions.close()
