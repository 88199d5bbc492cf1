"""Errors as librdkafka raises them."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

# librdkafka's own codes, for which the Python client has no public names.
FENCED = KafkaError._FENCED  # pyright: ignore[reportPrivateUsage]
INCONSISTENT = KafkaError._INCONSISTENT  # pyright: ignore[reportPrivateUsage]
PARTITION_EOF = KafkaError._PARTITION_EOF  # pyright: ignore[reportPrivateUsage]
STATE = KafkaError._STATE  # pyright: ignore[reportPrivateUsage]
TIMED_OUT = KafkaError._TIMED_OUT  # pyright: ignore[reportPrivateUsage]


def wrong_state(why: str) -> KafkaException:
    return KafkaException(KafkaError(STATE, why))


def timed_out(call: str) -> KafkaException:
    """What the call has asked for goes on; the same call again waits for it."""
    return KafkaException(KafkaError(TIMED_OUT, f"{call} timed out", False, True, False))
