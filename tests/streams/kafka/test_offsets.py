"""A missing answer about offsets is asked for again, or is an error: it never passes for an offset."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Producer, TopicPartition
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka import offsets as kit
from driftloop.streams.kafka import retry
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets, committed_offsets

NO_OFFSET = -1001  # librdkafka's RD_KAFKA_OFFSET_INVALID
NOT_LEADER = KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))


@dataclass
class OffsetAnswer:
    offset: int
    error: KafkaError | None = None


@dataclass
class AnsweringGroup:
    answers: list[OffsetAnswer]
    then: list[OffsetAnswer] = field(default_factory=list[OffsetAnswer])

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        now, self.answers = self.answers, self.then or self.answers
        return cast("list[TopicPartition]", now)


def test_offsets_are_given_and_so_is_that_there_are_none() -> None:
    found = committed_offsets(
        AnsweringGroup([OffsetAnswer(7), OffsetAnswer(OFFSET_INVALID)]), [], timeout_s=1.0
    )
    assert [place.offset for place in found] == [7, OFFSET_INVALID]


def test_one_partition_without_an_answer_is_an_error_for_all() -> None:
    moving = KafkaError(KafkaError.NOT_COORDINATOR)
    with pytest.raises(BrokerError, match="NOT_COORDINATOR"):
        committed_offsets(
            AnsweringGroup([OffsetAnswer(7), OffsetAnswer(OFFSET_INVALID, moving)]), [], timeout_s=0.2
        )


def test_a_coordinator_that_moves_is_asked_again() -> None:
    moving = KafkaError(KafkaError.NOT_COORDINATOR)
    group = AnsweringGroup([OffsetAnswer(OFFSET_INVALID, moving)], then=[OffsetAnswer(7)])
    assert [place.offset for place in committed_offsets(group, [], timeout_s=5.0)] == [7]


@dataclass
class AnsweringNodes:
    """Each node that is asked for a topic's metadata answers the next of ``errors``, and then the last."""

    errors: list[KafkaError | None]

    def list_topics(self, name: str, timeout: float) -> SimpleNamespace:
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        return SimpleNamespace(topics={name: SimpleNamespace(error=error, partitions={1: None, 0: None})})


def test_a_topic_that_one_node_does_not_know_yet_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    new = cast("Producer", AnsweringNodes([unknown, unknown, None]))
    assert kit.topic_partitions(new, "new", 1.0) == [0, 1]
    monkeypatch.setattr(kit, "_NEW_TOPIC_S", 0.2)
    with pytest.raises(
        BrokerError, match=r"topic none cannot be read: .*create it with `driftloop topics app"
    ):
        kit.topic_partitions(cast("Producer", AnsweringNodes([unknown])), "none", 1.0)


class Time:
    """Stands in for the module ``time``: it is later only by what was waited for."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class AnsweringAdmin:
    """Answers every question about offsets with the next of ``answers``: per partition, or an error.

    ``down``: how many of the first questions are asked of a node that is down.
    """

    time: Time
    answers: list[Mapping[int, int] | KafkaException]
    asked: int = 0
    down: int = 0
    request: dict[TopicPartition, object] = field(default_factory=dict[TopicPartition, object])

    def list_offsets(
        self, request: dict[TopicPartition, object], *, request_timeout: float, **_: object
    ) -> dict[TopicPartition, Future[SimpleNamespace]]:
        if self.asked < self.down:
            self.time.sleep(request_timeout)
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
) -> tuple[LogOffsets, AnsweringAdmin]:
    admin = AnsweringAdmin(Time(), list(answers))
    monkeypatch.setattr(kit, "AdminClient", lambda _: admin)
    monkeypatch.setattr(kit, "time", admin.time)
    monkeypatch.setattr(retry, "time", admin.time)
    return LogOffsets(Connection("nowhere:1"), timeout_s=0.5), admin


def test_a_partition_that_was_not_answered_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, admin = offsets_of(monkeypatch, {0: 7, 1: NO_OFFSET}, NOT_LEADER, {0: 7, 1: 9})
    assert offsets.ends(OUTCOMES, [0, 1]) == {0: 7, 1: 9}
    assert admin.asked == 3


def test_a_node_that_is_down_leaves_time_to_ask_another(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, admin = offsets_of(monkeypatch, {0: 7, 1: NO_OFFSET}, {0: 7, 1: 9})
    admin.down = 1
    assert offsets.ends(OUTCOMES, [0, 1]) == {0: 7, 1: 9}


def test_one_that_is_never_answered_is_an_error_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, _ = offsets_of(monkeypatch, {0: 7, 1: NO_OFFSET})
    with pytest.raises(BrokerError, match=r"outcomes: partitions \[1\] were not answered"):
        offsets.begins(OUTCOMES, [0, 1])


def test_no_record_from_a_time_on_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, admin = offsets_of(monkeypatch, {0: -1})
    assert offsets.at(OUTCOMES, {0: 1_700_000_000_000}, ends={0: 12}) == {0: 12}
    assert admin.asked == 1
