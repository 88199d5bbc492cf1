"""The producer of events: idempotent, bounded in events and bytes, without a time limit.

An outage only delays what it holds; an event that Kafka refuses for what it is fails at once.
"""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ....schemas.errors import SettingsError
from ...kafka.connection import Connection

# Failures that are not the event's fault.
SEND_AGAIN = frozenset(
    {
        KafkaError._PURGE_QUEUE,  # pyright: ignore[reportPrivateUsage]
        KafkaError._PURGE_INFLIGHT,  # pyright: ignore[reportPrivateUsage]
        KafkaError._UNKNOWN_TOPIC,  # pyright: ignore[reportPrivateUsage]
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # `driftloop topics apply` may still be running
        KafkaError._FATAL,  # pyright: ignore[reportPrivateUsage]
    }
)


def event_producer(
    connection: Connection,
    queue_events: int,
    on_failed_delivery: Callable[[KafkaError | None, Message], None],
    on_error: Callable[[KafkaError], None],
) -> Producer:
    """Raise SettingsError for what librdkafka does not accept."""
    config: dict[str, object] = {
        **connection.producer(
            linger_ms=10,
            queue_buffering_max_messages=queue_events,
            queue_buffering_max_kbytes=128 * 1024,
            message_max_bytes=4 * 1024 * 1024,
            message_timeout_ms=0,
            reconnect_backoff_max_ms=2_000,
        ),
        "delivery.report.only.error": True,
        "on_delivery": on_failed_delivery,
        "error_cb": on_error,
    }
    try:
        return Producer(config)
    except KafkaException as error:
        raise SettingsError(f"librdkafka refuses these settings: {error.args[0].str()}") from error
