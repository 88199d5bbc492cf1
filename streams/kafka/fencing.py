"""What is told when a transactional producer is finished: most often another process has its name."""

from __future__ import annotations

from confluent_kafka import KafkaError

from ...schemas.errors import BrokerError

_NAMED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # pyright: ignore[reportPrivateUsage]
_UNNAMED = KafkaError._FATAL  # pyright: ignore[reportPrivateUsage]  # an earlier error, which is not told again


def producer_finished(what: str, reason: KafkaError) -> BrokerError:
    """``what`` could not be done; the process must end."""
    who = "another process runs under this instance id (DRIFTLOOP_INSTANCE_ID); each needs its own"
    if reason.code() in _NAMED:
        return BrokerError(f"{what}: {who}")
    if reason.code() == _UNNAMED:
        return BrokerError(f"{what}: the producer was ended by an earlier error; most often {who}")
    return BrokerError(f"{what}: {reason}")
