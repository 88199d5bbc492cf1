"""Write what the trainer's cores decided, together with the offsets of what caused it."""

from __future__ import annotations

from collections.abc import Iterable

from ...schemas.partition import partition_of
from ...schemas.topics import DEAD_LETTERS
from ..kafka.connection import Connection
from ..kafka.transactions import Consumed, Transactions
from .step import Output

_CALL_S = 2.0  # one call into librdkafka: until it returns, a stop waits
_TRANSACTION_S = 30.0


class StepWriter:
    """The producer of one trainer."""

    def __init__(self, connection: Connection, instance_id: str, partitions: int) -> None:
        self._connection = connection
        self._partitions = partitions
        self._transactions = Transactions(
            connection, f"trainer-{instance_id}", call_s=_CALL_S, timeout_s=_TRANSACTION_S, linger_ms=0
        )

    def start(self) -> None:
        """Fence a predecessor of the same name and wait until what it began has ended."""
        self._transactions.start()

    def write(self, outputs: Iterable[Output], consumed: Consumed) -> None:
        """Raise Aborted when the transaction was aborted, BrokerError when this producer is finished."""
        self._transactions.run(lambda: self._send(outputs), consumed)

    def tend(self) -> None:
        """Take in what the producer has logged; call it also while nothing is written. Raises BrokerError."""
        self._transactions.tend()

    def close(self) -> None:
        """End what is open; nothing of it is visible."""
        self._transactions.close()

    def _send(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            # Everything of a model lies on the model's partition; only dead letters keep their own keys.
            place = (output.key or "") if output.topic is DEAD_LETTERS else output.model
            self._transactions.send(
                self._connection.topic(output.topic),
                output.event.encode(),
                output.key,
                partition_of(place, self._partitions) if place else 0,
            )
