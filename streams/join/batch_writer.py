"""Write each batch of the joiner in one transaction: what it emits, and the offsets of what it read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...schemas.dead_letters import cut_key
from ...schemas.partition import partition_of
from ...schemas.topics import DEAD_LETTERS, OUTCOMES, VITALS
from ..kafka.connection import Connection
from ..kafka.transactions import Consumed, Transactions
from .batch_output import BatchOutput

# One produce request per partition and batch: with more than five under way (all that idempotence allows) and
# messages left, or with messages that are due before their partition is part of the transaction, librdkafka's
# thread polls without a pause until that changes. It cost as much as all the rest of joining.
_LINGER_MS = 5
_REQUEST_BYTES = 3_000_000
_REQUEST_MESSAGES = 100_000


class BatchWriter:
    """The producer of one joiner; its transactional id is the instance's, so a predecessor is fenced."""

    def __init__(self, connection: Connection, instance_id: str) -> None:
        """Fence a predecessor and end what it left open. Raises BrokerError when that cannot be done."""
        self._connection = connection
        self._outcomes, self._vitals = connection.topic(OUTCOMES), connection.topic(VITALS)
        self._dead_letters = connection.topic(DEAD_LETTERS)
        self._transactions = Transactions(
            connection,
            f"join-{instance_id}",
            queue_buffering_max_messages=1_000_000,
            linger_ms=_LINGER_MS,
            batch_size=_REQUEST_BYTES,
            batch_num_messages=_REQUEST_MESSAGES,
        )
        self._transactions.start()
        self._letter_partitions = self._transactions.partitions(self._dead_letters)

    def write(
        self, outputs: Mapping[int, BatchOutput], consumed: Consumed, observe: Callable[[str], None]
    ) -> None:
        """Commit a batch: per input partition its output, and the offsets. Raises Aborted, BrokerError."""

        def send() -> None:
            for partition, output in outputs.items():
                self._send(partition, output)

        self._transactions.run(send, consumed, observe=observe)

    def _send(self, partition: int, output: BatchOutput) -> None:
        transactions = self._transactions
        transactions.send_all(self._outcomes, partition, output.outcomes)
        for message in output.vitals:
            transactions.send(self._vitals, message.value, None, message.partition)
        for record in output.misrouted:
            topic = self._connection.topic(record.topic)
            transactions.send(topic, record.value, record.key, record.partition, record.headers)
        for refused in output.refused:
            key = cut_key(refused.key)
            to = 0 if key is None else partition_of(key, self._letter_partitions)
            dead_letter = refused.dead_letter(self._connection.topic(refused.topic))
            transactions.send(self._dead_letters, dead_letter, key, to)

    def tend(self) -> None:
        """Take in what the producer has logged; call it also while nothing is written. Raises BrokerError."""
        self._transactions.tend()

    def close(self) -> None:
        """End what is open; nothing of it is visible."""
        self._transactions.close()
