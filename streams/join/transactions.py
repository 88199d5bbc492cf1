"""One Kafka transaction per batch: what it emits, and the offsets of what it read, or neither.

Errors, as librdkafka classes them: retriable ones repeat the same call; those that require an abort abort;
fatal ones (fenced by another process of the same instance, above all) and anything else end the process, with
a BrokerError that says why. On failure: nothing of the transaction is visible to read_committed readers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from ...schemas.errors import BrokerError
from ...schemas.partition import partition_of
from ...schemas.topics import DEAD_LETTERS, OUTCOMES, VITALS
from ..kafka.connection import Connection
from ..kafka.fencing import producer_finished
from .batch_output import Effects
from .reading.batch import Header

log = logging.getLogger(__name__)

_CALL_S = 10.0
_DEADLINE_S = 60.0
_MAX_MESSAGE_BYTES = 4_194_304  # max.message.bytes of every topic
# One produce request per partition and batch: with more than five under way (all that idempotence allows) and
# messages left, or with messages that are due before their partition is part of the transaction, librdkafka's
# thread polls without a pause until that changes. It was as dear as all the rest of joining.
_LINGER_MS = 5
_REQUEST_BYTES = 3_000_000
_REQUEST_MESSAGES = 100_000


class Transactions:
    """The producer of one joiner; its transactional id is the instance's, so a predecessor is fenced."""

    def __init__(self, connection: Connection, instance_id: str) -> None:
        """Fences a predecessor and ends what it left open. Raises BrokerError when that cannot be done."""
        self._connection = connection
        self._outcomes, self._vitals = connection.topic(OUTCOMES), connection.topic(VITALS)
        self._dead_letters = connection.topic(DEAD_LETTERS)
        self._producer = Producer(
            connection.transactional(
                f"join-{instance_id}",
                message_max_bytes=_MAX_MESSAGE_BYTES,
                queue_buffering_max_messages=1_000_000,
                linger_ms=_LINGER_MS,
                batch_size=_REQUEST_BYTES,
                batch_num_messages=_REQUEST_MESSAGES,
            )
        )
        self._insist("init_transactions", lambda: self._producer.init_transactions(_CALL_S))
        self._letter_partitions = self.partitions(self._dead_letters)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises BrokerError when it has none or nobody answers."""
        try:
            found = self._producer.list_topics(topic, timeout=_CALL_S).topics[topic]
        except KafkaException as error:
            raise BrokerError(f"cannot reach Kafka to look at {topic}: {error.args[0]}") from error
        if found.error is not None:
            raise BrokerError(f"topic {topic}: {found.error}; create it with `driftloop topics apply`")
        return len(found.partitions)

    def run(
        self,
        effects: Sequence[tuple[int, Effects]],
        offsets: list[TopicPartition],
        group_metadata: Any,
        observe: Callable[[str], None],
    ) -> str | None:
        """Commits a batch: per input partition its effects, and the offsets. None, or why it was aborted.

        Raises BrokerError after fatal errors: the process must end.
        """
        try:
            self._producer.begin_transaction()
            for partition, of_partition in effects:
                self._produce(partition, of_partition)
            observe("produced")
            self._insist(
                "send_offsets_to_transaction",
                lambda: self._producer.send_offsets_to_transaction(offsets, group_metadata, _CALL_S),
            )
            observe("offsets sent")
            self._insist("commit_transaction", self._commit)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.fatal() or not reason.txn_requires_abort():
                raise producer_finished("the transaction failed", reason) from error
            self._abort()
            return str(reason)
        return None

    def _commit(self) -> None:
        self._producer.flush(_CALL_S)
        self._producer.commit_transaction(_CALL_S)

    def _abort(self) -> None:
        try:
            self._insist("abort_transaction", lambda: self._producer.abort_transaction(_CALL_S))
        except KafkaException as error:
            raise producer_finished("the transaction could not be aborted", error.args[0]) from error

    def _produce(self, partition: int, effects: Effects) -> None:
        outcomes, produce = self._outcomes, self._producer.produce
        for key, value in effects.outcomes:
            try:
                produce(outcomes, value, key, partition)
            except BufferError:
                self._send(outcomes, partition, key, value)
        for to, value in effects.vitals:
            self._send(self._vitals, to, None, value)
        for record in effects.rerouted:
            topic = self._connection.topic(record.topic)
            self._send(topic, record.partition, record.key, record.value, record.headers)
        for refused in effects.refused:
            key = refused.letter_key()
            to = 0 if key is None else partition_of(key, self._letter_partitions)
            letter = refused.letter(self._connection.topic(refused.topic))
            self._send(self._dead_letters, to, key, letter)

    def _send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes,
        headers: list[Header] | None = None,
    ) -> None:
        while True:
            try:
                if headers is None:
                    self._producer.produce(topic, value, key, partition)
                else:
                    self._producer.produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.1)  # the queue is full: wait until some of it was delivered

    def _insist(self, name: str, call: Callable[[], None]) -> None:
        """Repeats a call while its error is retriable. Raises KafkaException otherwise, or if time is up."""
        until = time.monotonic() + _DEADLINE_S
        while True:
            try:
                return call()
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if not reason.retriable() or time.monotonic() > until:
                    raise
                log.warning("%s is tried again: %s", name, reason)

    def close(self) -> None:
        """Ends what is open; nothing of it is visible."""
        self._producer.purge()
        try:
            self._producer.close()
        except KafkaException as error:  # after a fatal error, which must not be hidden by this one
            log.warning("the producer could not be closed in order: %s", error.args[0])
