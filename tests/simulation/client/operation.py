"""A request that is sent until it is answered, as librdkafka's thread does, no matter who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from tests.simulation.network import LOST, Link

_BACKOFF_S = 0.006
_CONCURRENT_BACKOFF_S = 0.02


class Operation:
    """Sends ``handle`` until it is answered, and calls ``then`` with the answer: an error, or a value.

    Once it is ``dropped`` or not ``wanted``, nothing is sent any more and no answer counts.
    """

    def __init__(
        self,
        link: Link,
        api: str,
        handle: Callable[[], Any],
        then: Callable[[Any], None],
        *,
        wanted: Callable[[], bool],
        backoff_s: float = _BACKOFF_S,
    ) -> None:
        self._link, self._api, self._handle, self._then = link, api, handle, then
        self._wanted, self._backoff_s = wanted, backoff_s
        self.answer: Any = None
        self.dropped = False
        self._send()

    def _send(self) -> None:
        if not self.dropped and self._wanted():
            self._link.request(self._api, self._handle, self._answered)

    def _answered(self, answer: Any) -> None:
        if self.dropped or not self._wanted():
            return
        if answer is LOST:
            self._link.world.after(self._backoff_s, self._send)
        elif answer == KafkaError.CONCURRENT_TRANSACTIONS:
            self._link.world.after(_CONCURRENT_BACKOFF_S, self._send)
        else:
            self.answer = answer
            self._then(answer)
