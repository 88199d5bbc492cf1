"""Kafka messages as the columns that the joiner's core reads."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Message

from .batch import Header, Headers, Records


def columns_of(messages: Sequence[Message], at: int = 0) -> Records:
    """Return the records from offset ``at`` on; those before it, as after a seek, were read already."""
    if messages and offset_of(messages[0]) < at:
        messages = [message for message in messages if offset_of(message) >= at]

    def headers(index: int) -> Headers:
        found = messages[index].headers() or []
        items: Sequence[Header] = list(found.items()) if isinstance(found, dict) else found
        return items

    return Records(
        [message.value() for message in messages],
        [message.key() for message in messages],
        [message.offset() or 0 for message in messages],
        [message.timestamp()[1] for message in messages],
        headers,
    )


def offset_of(message: Message) -> int:
    return message.offset() or 0


def append_ms_of(message: Message) -> int:
    """Return when the broker appended it: every topic's timestamps are LogAppendTime."""
    return message.timestamp()[1]
