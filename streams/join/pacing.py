"""Reading a partition's two topics in step while there is a backlog.

Kafka hands out bytes, so the topic with the smaller records is read further in the same time. What is ahead
then waits in the state for what it belongs to: it costs memory, and each id is written to disk twice. So
records that were appended after all that was read of the other topic are held back, in their order, for as
long as the other one is known to have more on its way. Without a backlog nothing is held back.

What the joiner emits does not depend on it (see ``join.joiner``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from ...schemas.topics import LABELS, PREDICTIONS, Topic

Record = TypeVar("Record")

_OTHER: Mapping[Topic, Topic] = {PREDICTIONS: LABELS, LABELS: PREDICTIONS}


class Pacing(Generic[Record]):
    """Holds back what is ahead. Of both topics at once only what ``most`` has left behind."""

    def __init__(self, append_ms: Callable[[Record], int]) -> None:
        self._append_ms = append_ms
        self._held: dict[Topic, list[Record]] = {}
        self._read_ms: dict[Topic, int] = {}
        self.clear()

    def held(self, topic: Topic) -> int:
        """How many of its records are held back."""
        return len(self._held[topic])

    def clear(self) -> None:
        """Forgets what was read: both topics are sought anew."""
        for topic in _OTHER:
            self._held[topic], self._read_ms[topic] = [], 0

    def pass_on(
        self, fetched: Mapping[Topic, list[Record]], more: Mapping[Topic, bool], most: int
    ) -> dict[Topic, list[Record]]:
        """What may be processed now, per topic at most ``most`` records.

        ``more``: whether that topic is known to have more on its way than was fetched.
        """
        for topic, records in fetched.items():
            self._held[topic] += records
            self._read_ms[topic] = max(self._read_ms[topic], self._append_ms(records[-1]))
        passed: dict[Topic, list[Record]] = {}
        for topic, held in self._held.items():
            other, count = _OTHER[topic], len(held)
            if more[other]:
                count = bisect_right(held, self._read_ms[other], key=self._append_ms)
            if count:
                count = min(count, most)
                passed[topic], self._held[topic] = held[:count], held[count:]
        return passed
