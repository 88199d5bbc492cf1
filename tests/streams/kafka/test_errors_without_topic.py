"""Everybody goes on after what a consumer says of a broker or its group, which names no topic."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import KafkaError, Message
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import PREDICTIONS
from driftloop.streams.join.fetching import sorted_messages
from driftloop.streams.join.flow_control import FlowControl
from driftloop.streams.join.recovery.data_loss import DataLossCheck
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.ranges import LogRanges
from driftloop.streams.kafka.reader import report_error
from driftloop.streams.train.input_reader import InputReader

NOWHERE = Connection("127.0.0.1:9")
CODES = [
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError._TRANSPORT,  # pyright: ignore[reportPrivateUsage]
    KafkaError._AUTO_OFFSET_RESET,  # pyright: ignore[reportPrivateUsage]
    KafkaError.GROUP_AUTHORIZATION_FAILED,
]


def said(code: int) -> Message:
    return Message(error=KafkaError(code, "FindCoordinator response error"))


@pytest.mark.parametrize("code", CODES)
def test_a_joiner_goes_on(
    code: int,
    flow: FlowControl,
    data_loss: DataLossCheck,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = Message(topic="driftloop.predictions", partition=1, offset=7, value=b"{}")
    topics = {"driftloop.predictions": PREDICTIONS}
    found = sorted_messages([said(code), record, said(code)], topics, flow, data_loss)
    assert found == {1: {PREDICTIONS: [record]}}
    assert "Kafka: KafkaError" in caplog.text


@pytest.mark.parametrize("code", CODES)
def test_a_trainer_goes_on(code: int) -> None:
    with closing(InputReader(NOWHERE, LogOffsets(NOWHERE), "t0")) as inputs:
        assert inputs._accept(said(code)) is None
        assert not inputs.position_lost


@pytest.mark.parametrize("code", CODES)
def test_who_reads_a_range_goes_on(code: int) -> None:
    waiting = {0: 5}
    with closing(LogRanges(NOWHERE, name="test")) as ranges:
        assert not ranges._is_in(said(code), waiting)
    assert waiting == {0: 5}


def test_waiting_for_rights_does_not_help() -> None:
    denied = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "denied")
    with pytest.raises(BrokerError, match=r"driftloop\.labels\[2\] cannot be read"):
        report_error(Message(topic="driftloop.labels", partition=2, error=denied))


@pytest.mark.parametrize(
    "code",
    [KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID],  # pyright: ignore[reportPrivateUsage]
)
def test_a_consumer_that_is_finished_ends_its_role(
    code: int, flow: FlowControl, data_loss: DataLossCheck
) -> None:
    # As librdkafka hands it over: without a mark that it is fatal.
    fenced = Message(error=KafkaError(code, "Static consumer fenced by other consumer"))
    error = fenced.error()
    assert error is not None
    assert not error.fatal()
    with pytest.raises(BrokerError, match=r"Kafka cannot be read: .*Static consumer fenced"):
        sorted_messages([fenced], {}, flow, data_loss)
    with (
        closing(InputReader(NOWHERE, LogOffsets(NOWHERE), "t0")) as inputs,
        pytest.raises(BrokerError, match="fenced"),
    ):
        inputs._accept(fenced)


@pytest.fixture
def flow() -> FlowControl:
    return FlowControl.__new__(FlowControl)  # nothing of it is to be called


@pytest.fixture
def data_loss() -> DataLossCheck:
    return DataLossCheck.__new__(DataLossCheck)
