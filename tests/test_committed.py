"""A partition whose offset could not be had is no partition without commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from driftloop.streams.committed import committed_offsets


@dataclass
class Answer:
    offset: int
    error: KafkaError | None = None


@dataclass
class Answering:
    answers: list[Answer]

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return cast("list[TopicPartition]", self.answers)


def test_offsets_are_given_and_so_is_that_there_are_none() -> None:
    found = committed_offsets(Answering([Answer(7), Answer(OFFSET_INVALID)]), [], 1.0)
    assert [place.offset for place in found] == [7, OFFSET_INVALID]


def test_one_partition_without_an_answer_is_an_error_for_all() -> None:
    moving = KafkaError(KafkaError.NOT_COORDINATOR)
    with pytest.raises(KafkaException, match="NOT_COORDINATOR"):
        committed_offsets(Answering([Answer(7), Answer(OFFSET_INVALID, moving)]), [], 1.0)
