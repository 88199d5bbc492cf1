"""A partition whose offset could not be had is no partition without commits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, TopicPartition
from driftloop.schemas.errors import BrokerError
from driftloop.streams.kafka.offsets import committed_offsets


@dataclass
class Answer:
    offset: int
    error: KafkaError | None = None


@dataclass
class Answering:
    answers: list[Answer]
    then: list[Answer] = field(default_factory=list[Answer])

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        now, self.answers = self.answers, self.then or self.answers
        return cast("list[TopicPartition]", now)


def test_offsets_are_given_and_so_is_that_there_are_none() -> None:
    found = committed_offsets(Answering([Answer(7), Answer(OFFSET_INVALID)]), [], timeout_s=1.0)
    assert [place.offset for place in found] == [7, OFFSET_INVALID]


def test_one_partition_without_an_answer_is_an_error_for_all() -> None:
    moving = KafkaError(KafkaError.NOT_COORDINATOR)
    with pytest.raises(BrokerError, match="NOT_COORDINATOR"):
        committed_offsets(Answering([Answer(7), Answer(OFFSET_INVALID, moving)]), [], timeout_s=0.2)


def test_a_coordinator_that_moves_is_asked_again() -> None:
    moving = KafkaError(KafkaError.NOT_COORDINATOR)
    group = Answering([Answer(OFFSET_INVALID, moving)], then=[Answer(7)])
    assert [place.offset for place in committed_offsets(group, [], timeout_s=5.0)] == [7]
