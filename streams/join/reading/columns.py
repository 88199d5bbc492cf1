"""Kafka messages as the columns that the joiner's core reads; what few records need, on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

from confluent_kafka import Message

from .batch import Header, Headers, Records

T = TypeVar("T")


class OnDemand(Sequence[T]):
    """A column whose items are read from the messages one by one, because few of them are needed."""

    __slots__ = ("_get", "_messages")

    def __init__(self, messages: Sequence[Message], get: Callable[[Message], T]) -> None:
        self._messages = messages
        self._get = get

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return OnDemand(self._messages[index], self._get)
        return self._get(self._messages[index])

    def __len__(self) -> int:
        return len(self._messages)


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
        OnDemand(messages, key_of),
        OnDemand(messages, offset_of),
        [message.timestamp()[1] for message in messages],
        headers,
    )


def key_of(message: Message) -> bytes | None:
    return message.key()


def offset_of(message: Message) -> int:
    return message.offset() or 0


def append_ms_of(message: Message) -> int:
    """Return when the broker appended it: every topic's timestamps are LogAppendTime."""
    return message.timestamp()[1]
