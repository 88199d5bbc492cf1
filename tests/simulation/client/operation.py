"""A request that is sent until it is answered, as librdkafka's thread does, whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from confluent_kafka import KafkaError

from tests.simulation.clock import VirtualWorld
from tests.simulation.network import Link, Lost

RETRIED = (KafkaError.CONCURRENT_TRANSACTIONS,)


class Sender(Protocol):
    """The producer whose request it is. ``replaced``: it was destroyed, and sends nothing any more."""

    world: VirtualWorld
    replaced: bool

    def wake(self) -> None: ...


class Operation:
    """A request that is sent until it is answered, whoever waits for it. ``answer``: an error, or a value."""

    def __init__(
        self, producer: Sender, link: Link, api: str, handle: Callable[[], Any], backoff_s: float = 0.006
    ) -> None:
        self._producer, self._link, self._api, self._handle = producer, link, api, handle
        self._backoff_s = backoff_s
        self.answer: Any = None
        self.dropped = False
        self._send()

    def _send(self) -> None:
        if not self.dropped and not self._producer.replaced:
            self._link.request(self._api, self._handle, self._answered)

    def _answered(self, answer: Any) -> None:
        if self.dropped:
            return
        if isinstance(answer, Lost) or answer in RETRIED:
            backoff_s = 0.02 if answer in RETRIED else self._backoff_s
            self._producer.world.after(backoff_s, self._send)
            return
        self.answer = answer
        self._producer.wake()
