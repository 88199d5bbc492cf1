"""What is said where no Kafka answers."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient
from driftloop.schemas.errors import BrokerError
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reach import _reason, reach  # pyright: ignore[reportPrivateUsage]


def test_the_reason_is_named_and_nothing_else_is_printed(
    nowhere: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BrokerError) as failed:
        reach(Connection(nowhere), 0.5)
    line = str(failed.value)
    assert line.startswith(f"no Kafka answers at {nowhere}: ")
    assert "Connection refused; check the address" in line
    assert "after" not in line
    assert capfd.readouterr() == ("", "")


def test_an_unknown_host_is_named_as_such() -> None:
    with pytest.raises(BrokerError, match=r"Failed to resolve 'no\.such\.host\.invalid:9092'"):
        reach(Connection("no.such.host.invalid:9092"), 0.5)


def test_who_waits_is_given_one_line(nowhere: str) -> None:
    reported: list[str] = []
    with pytest.raises(BrokerError):
        reach(Connection(nowhere), 2.5, waiting=reported.append)
    (line,) = reported
    assert line.startswith(f"waiting up to 2.5 s for Kafka at {nowhere}: ")


def test_who_is_asked_to_stop_does_not_wait(nowhere: str) -> None:
    stop = threading.Event()
    reach(Connection(nowhere), 3_600.0, waiting=lambda _line: stop.set(), stop=stop)


def test_a_kafka_that_answers_ends_the_wait_and_no_topic_is_made(connection: Connection) -> None:
    reach(connection, 60.0)
    present = AdminClient(connection.client()).list_topics(timeout=30).topics
    assert not [name for name in present if name.startswith(connection.prefix)]


def test_a_reason_is_whole_without_what_librdkafka_adds() -> None:
    refused = "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused"
    for added in (
        "",
        " (after 0ms in state CONNECT)",
        " (after 9ms in state CONNECT, 1 identical error(s) suppressed)",
    ):
        error = KafkaError(KafkaError._TRANSPORT, refused + added)  # pyright: ignore[reportPrivateUsage]
        assert _reason([error], error) == "Connect to ipv4#127.0.0.1:1 failed: Connection refused"
