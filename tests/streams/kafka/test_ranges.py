"""Where a log begins and ends is asked until it is answered: what is no offset never passes for one."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka import ranges as log_ranges
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.ranges import LogOffsets

NO_OFFSET = -1001  # librdkafka's RD_KAFKA_OFFSET_INVALID
NOT_LEADER = KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))


@dataclass
class Answering:
    """Answers every question about offsets with the next of ``answers``: per partition, or an error."""

    answers: list[Mapping[int, int] | KafkaException]
    asked: int = 0
    request: dict[TopicPartition, object] = field(default_factory=dict[TopicPartition, object])

    def list_offsets(
        self, request: dict[TopicPartition, object], **_: object
    ) -> dict[TopicPartition, Future[SimpleNamespace]]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        futures: dict[TopicPartition, Future[SimpleNamespace]] = {}
        for place in request:
            futures[place] = Future()
            if isinstance(answer, KafkaException):
                futures[place].set_exception(answer)
            else:
                futures[place].set_result(SimpleNamespace(offset=answer[place.partition]))
        return futures


def offsets_of(
    monkeypatch: pytest.MonkeyPatch, *answers: Mapping[int, int] | KafkaException
) -> tuple[LogOffsets, Answering]:
    admin = Answering(list(answers))
    monkeypatch.setattr(log_ranges, "AdminClient", lambda _: admin)
    return LogOffsets(Connection("nowhere:1"), timeout_s=0.5), admin


def test_a_partition_that_was_not_answered_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, admin = offsets_of(monkeypatch, {0: 7, 1: NO_OFFSET}, NOT_LEADER, {0: 7, 1: 9})
    assert offsets.ends(OUTCOMES, [0, 1]) == {0: 7, 1: 9}
    assert admin.asked == 3


def test_one_that_is_never_answered_is_an_error_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, _ = offsets_of(monkeypatch, {0: 7, 1: NO_OFFSET})
    with pytest.raises(BrokerError, match=r"outcomes: partitions \[1\] were not answered"):
        offsets.begins(OUTCOMES, [0, 1])


def test_no_record_from_a_time_on_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, admin = offsets_of(monkeypatch, {0: -1})
    assert offsets.at(OUTCOMES, {0: 1_700_000_000_000}, ends={0: 12}) == {0: 12}
    assert admin.asked == 1
