"""Ask where logs begin and end, and what a group has committed: the answer, or an error, never a guess.

librdkafka answers partition by partition, and while a broker is failing an answer can be missing without an
error of the whole call. A missing answer taken for one would make a log begin or end where it does not, or
read a topic from its beginning again. So such questions are asked again.

On failure: BrokerError; nothing was changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import cast

from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, ListOffsetsResultInfo, OffsetSpec

from ...schemas.errors import BrokerError
from ...schemas.topics import Topic
from .connection import Connection
from .retry import Unanswered, retry

# "From this time on" is answered with -1 where there is no record. An offset below -1 means "unknown": while
# a broker is failing, librdkafka can return -1001 without an error.
_NO_RECORD = -1
_CALL_S = 10.0
_NEW_TOPIC_S = 2.0  # nodes learn of a new topic one after the other, and any of them may be asked
_Client = Producer | Consumer | AdminClient


def topic_metadata(client: _Client, name: str, timeout_s: float) -> ClusterMetadata:
    """The cluster's metadata with this topic's. Raises BrokerError when nobody answers or it is missing."""
    new_until = time.monotonic() + _NEW_TOPIC_S

    def ask() -> ClusterMetadata:
        metadata = client.list_topics(name, timeout=timeout_s)
        if metadata.topics[name].error is not None and time.monotonic() < new_until:
            raise Unanswered(f"topic {name} is not known yet")
        return metadata

    try:
        metadata = retry(ask, timeout_s=max(timeout_s, _NEW_TOPIC_S))
    except KafkaException as error:
        raise BrokerError(f"cannot reach Kafka to look at {name}: {error.args[0]}") from error
    if (problem := metadata.topics[name].error) is not None:
        raise BrokerError(f"topic {name} cannot be read: {problem}; create it with `driftloop topics apply`")
    return metadata


def topic_partitions(client: _Client, name: str, timeout_s: float) -> list[int]:
    """The numbers of a topic's partitions. Raises BrokerError as ``topic_metadata`` does."""
    return sorted(topic_metadata(client, name, timeout_s).topics[name].partitions)


class LogOffsets:
    """Where topics begin and end, and where they stood at a time; thread safe.

    Raises BrokerError when the cluster does not answer for ``timeout_s``.
    """

    def __init__(self, connection: Connection, *, timeout_s: float = 30.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._admin = self._new_admin()

    def partitions(self, topic: Topic) -> list[int]:
        return topic_partitions(self._admin, self._connection.topic(topic), self._timeout_s)

    def brokers(self, topic: Topic) -> int:
        """How many brokers the cluster has, each with its own clock."""
        return len(topic_metadata(self._admin, self._connection.topic(topic), self._timeout_s).brokers)

    def begins(self, topic: Topic, partitions: list[int]) -> dict[int, int]:
        earliest = cast("OffsetSpec", OffsetSpec.earliest())
        return self._ask(topic, dict.fromkeys(partitions, earliest))

    def ends(self, topic: Topic, partitions: list[int], *, timeout_s: float | None = None) -> dict[int, int]:
        """Offsets that the next records will get. ``timeout_s``: to wait no longer than this."""
        latest = cast("OffsetSpec", OffsetSpec.latest())
        return self._ask(topic, dict.fromkeys(partitions, latest), timeout_s)

    def at(
        self, topic: Topic, times_ms: Mapping[int, int], *, ends: Mapping[int, int] | None = None
    ) -> dict[int, int]:
        """Per partition the offset of the first record appended at or after a time; its end where none was.

        ``ends``: to be used for these ends.
        """
        # The ends first: a record appended between the two questions must not be taken for an earlier one.
        ends = self.ends(topic, list(times_ms)) if ends is None else ends
        found = self._ask(
            topic, {p: OffsetSpec.for_timestamp(max(0, time_ms)) for p, time_ms in times_ms.items()}
        )
        return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}

    def _new_admin(self) -> AdminClient:
        """Make a client that logs nothing: nobody polls it for that, and its calls say what failed."""
        return AdminClient({**self._connection.client(), "log_level": 0})

    def _ask(
        self, topic: Topic, wanted: dict[int, OffsetSpec], timeout_s: float | None = None
    ) -> dict[int, int]:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        name = self._connection.topic(topic)
        request = {TopicPartition(name, partition): spec for partition, spec in wanted.items()}
        deadline = time.monotonic() + timeout_s
        # A question to a node that is down stays unanswered to its end, though another node leads by then.
        call_s = min(_CALL_S, timeout_s / 3)

        def ask() -> dict[int, int]:
            try:
                return self._answer(request, max(0.1, min(call_s, deadline - time.monotonic())))
            except (KafkaException, Unanswered):
                # A client keeps asking with the leader epoch it once learned (seen: FENCED_LEADER_EPOCH for
                # ever after a broker's pause); a new one does not.
                self._admin = self._new_admin()
                raise

        try:
            return retry(ask, timeout_s=timeout_s)
        except (KafkaException, Unanswered) as error:
            raise BrokerError(f"cannot ask for the offsets of {name}: {error.args[0]}") from error

    def _answer(self, request: dict[TopicPartition, OffsetSpec], timeout_s: float) -> dict[int, int]:
        answers = cast(
            "dict[TopicPartition, Future[ListOffsetsResultInfo]]",
            self._admin.list_offsets(
                request, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=timeout_s
            ),
        )
        found = {where.partition: answer.result().offset for where, answer in answers.items()}
        unknown = [partition for partition, offset in found.items() if offset < _NO_RECORD]
        if unknown:
            raise Unanswered(f"partitions {unknown} were not answered")
        return found


def committed_offsets(
    group: Consumer, places: list[TopicPartition], *, timeout_s: float
) -> list[TopicPartition]:
    """Return ``places`` with the group's offsets, negative where none was ever committed.

    The question is repeated for ``timeout_s`` while a partition is not answered, or while an open transaction
    may yet move an offset. Raises BrokerError when even one partition's offset is unknown by then.
    """

    def ask() -> list[TopicPartition]:
        found = group.committed(places, timeout=min(_CALL_S, timeout_s))
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return found

    try:
        return retry(ask, timeout_s=timeout_s)
    except KafkaException as error:
        raise BrokerError(f"the group's committed offsets cannot be read: {error.args[0]}") from error
