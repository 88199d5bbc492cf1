"""One vitals partition's monitor and policy: bytes and offsets in, events out. No Kafka, no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from ..schemas.topics import Topic

Clock = Literal["append", "event"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """A record for the shell to produce. An empty key means that the record has none."""

    topic: Topic
    key: bytes
    value: bytes


class VitalsCore:
    """What vitals of one partition decide: drift, triggers and dead letters.

    On failure: ``apply`` raises only on a defect of driftloop; the core is then to be thrown away and restored
    from the last snapshot. Whatever the log holds, good or bad, gives events (dead letters for the bad).
    """

    def __init__(self, partition: int, *, clock: Clock = "append") -> None:
        self.partition = partition
        self.clock: Clock = clock

    @property
    def applied_offset(self) -> int:
        """Offset of the last record applied; -1 before the first."""
        raise NotImplementedError

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
        """Events that this record causes, in order. An offset at or below ``applied_offset`` gives none."""
        raise NotImplementedError

    def snapshot(self) -> bytes:
        """The whole state with the offset it stands at; the same state gives the same bytes."""
        raise NotImplementedError

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Raises StateError when ``data`` is no snapshot of this format."""
        raise NotImplementedError
