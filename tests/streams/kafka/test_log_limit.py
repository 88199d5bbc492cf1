"""What of a client library's log reaches a person while Kafka is away."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import KafkaError, KafkaException
from driftloop.streams.kafka.log_limit import LogLimit, is_defect, kind_of

REFUSED = "[thrd:127.0.0.1:9092/bootstrap]: 127.0.0.1:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Written(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written(clock: Clock) -> Written:
    handler = Written()
    handler.addFilter(LogLimit(clock=clock))
    return handler


def logger(handler: logging.Handler, name: str = "driftloop.librdkafka") -> logging.Logger:
    made = logging.Logger(name)  # not the process's: its filters stay out of this
    made.addHandler(handler)
    return made


def test_a_kind_is_written_once_a_minute_with_the_count_of_the_rest(written: Written, clock: Clock) -> None:
    log = logger(written)
    for second in range(180):
        clock.now = float(second)
        log.error("%s [%s] %s", "FAIL", f"rdkafka#consumer-{second % 7}", f"{REFUSED} (after {second}ms)")
    assert len(written.lines) == 3
    assert "left out" not in written.lines[0]
    assert written.lines[1].endswith("(59 more like it were left out)")


def test_another_kind_is_not_held_back(written: Written) -> None:
    log = logger(written)
    for reason in ("Connection refused", "No route to host", "Connection refused"):
        log.error(
            "%s [%s] %s", "FAIL", "rdkafka#producer-1", f"{REFUSED}: {reason} (after 0ms, 3 error(s) seen)"
        )
    log.error("SASL authentication failed")
    assert len(written.lines) == 3


def test_what_goes_well_is_written_each_time(written: Written) -> None:
    log = logger(written, "driftloop.serve")
    for version in range(5):
        log.info("version %d is live", version)
    assert len(written.lines) == 5


@pytest.mark.parametrize("library", ["aiokafka.consumer.group_coordinator", "mode.timers", "faust"])
def test_a_client_library_is_one_kind(written: Written, library: str) -> None:
    for number in range(939):
        logger(written, library).error(
            "OffsetCommit failed for group %s (attempt %d), will rejoin", "g", number
        )
        logger(written, library).warning("Timer keep-time is overlapping (runtime=%d)", number)
    assert len(written.lines) == 1


def test_a_traceback_is_written_for_a_defect_only(written: Written) -> None:
    away = [
        KafkaConnectionError("node 1 not ready"),
        KafkaException(KafkaError(KafkaError._TRANSPORT, "down")),  # pyright: ignore[reportPrivateUsage]
        ConnectionResetError("by peer"),
        TimeoutError("no answer"),
    ]
    for error in away:
        assert not is_defect(error)
        logger(written, "mode.services").error("%s crashed", type(error).__name__, exc_info=error)
    logger(written, "mode.services").error("crashed", exc_info=KeyError(""))
    crash, defect = written.lines  # one story, and the defect beside it
    assert (
        crash == "KafkaConnectionError crashed: KafkaConnectionError: KafkaConnectionError: node 1 not ready"
    )
    assert defect.splitlines() == ["crashed", "KeyError: ''"]  # it has no frames: it was never raised


def test_a_line_that_passes_two_limits_is_counted_by_the_first(written: Written, clock: Clock) -> None:
    log = logger(written)
    first = LogLimit(clock=clock)
    log.addFilter(first)
    for second in (0.0, 30.0, 60.0):
        clock.now = second
        log.error("no broker")
    assert written.lines == ["no broker", "no broker (1 more like it were left out)"]


def test_kinds_are_forgotten_after_their_minute(clock: Clock) -> None:
    limit = LogLimit(clock=clock)
    for number in range(5_000):
        clock.now = number * 0.1  # 600 kinds a minute
        limit.filter(
            logging.makeLogRecord(
                {"name": "x", "levelno": logging.ERROR, "msg": "a" * (number % 150) + "b" * (number // 150)}
            )
        )
    assert len(limit._kinds) < 1_500


def test_kinds_differ_in_words_not_in_numbers() -> None:
    assert kind_of("a", "driftloop.vitals[3]: offset 12") == kind_of("a", "driftloop.vitals[0]: offset 7")
    assert kind_of("a", "no model late") != kind_of("a", "no model churn")
