"""Reading a topic to its end, also while others write to it without a pause."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.kafka.record import Record

from tests.support.waiting import wait_until


@pytest.fixture
def written(topics: Connection) -> Iterator[list[int]]:
    """How many records have been committed to a topic, more of them all the time."""
    counts, enough = [0], threading.Event()
    producer = Producer(topics.transactional("busy", linger_ms=0))
    producer.init_transactions(30)

    def write() -> None:
        while not enough.is_set():
            producer.begin_transaction()
            for partition in (0, 1):
                producer.produce(topics.topic(OUTCOMES), b"x", partition=partition)
            producer.commit_transaction(30)
            counts[0] += 2

    writing = threading.Thread(target=write)
    writing.start()
    yield counts
    enough.set()
    writing.join()


class NeverAtEnd(LogReader):
    """As where a record always comes before the fetch that would have found none."""

    def poll(self, timeout_s: float = 0.0, *, max_records: int = 1000) -> list[Record]:
        records = super().poll(timeout_s, max_records=max_records)
        self._at_end = dict.fromkeys(self._at_end, False)
        return records


@pytest.mark.parametrize("kind", [LogReader, NeverAtEnd])
def test_a_topic_that_never_rests_is_read_to_the_end_it_had(
    topics: Connection, written: list[int], kind: type[LogReader]
) -> None:
    wait_until(lambda: written[0] > 20)
    before = written[0]
    with contextlib.closing(kind(topics, (OUTCOMES,))) as reader:
        assert sum(1 for _ in reader.catch_up()) >= before
        reached = written[0]
        wait_until(lambda: written[0] > reached + 40)
        assert reader.poll(60), "what came later is read later"


@pytest.fixture
def reader(topics: Connection) -> Iterator[LogReader]:
    with contextlib.closing(LogReader(topics, (OUTCOMES,))) as made:
        yield made


def test_nothing_to_read_is_an_end_too(reader: LogReader) -> None:
    assert list(reader.catch_up()) == []


def test_an_end_that_is_not_reached_in_time_is_an_error(written: list[int], reader: LogReader) -> None:
    with pytest.raises(BrokerError, match=r"outcomes\[0\], .* to the end within 0 s"):
        list(reader.catch_up(0))
