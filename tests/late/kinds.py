"""The kinds of late request that are tried: what is held back, and when it is delivered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

from tests.support.kafka.late_network import ADD_PARTITIONS, END_TXN, PRODUCE, TXN_OFFSET_COMMIT


class Between(NamedTuple):
    """Once the first was answered in the next transaction, and before the second goes in."""

    answered: int
    goes_in: int


class Moment(Enum):
    """When the broker gets the late request. ``SOON``: 5 to 120 ms after the repeated one was answered."""

    SOON = None
    BEFORE_PARTITIONS = Between(TXN_OFFSET_COMMIT, ADD_PARTITIONS)
    BEFORE_RECORDS = Between(TXN_OFFSET_COMMIT, PRODUCE)
    BETWEEN_RECORDS = Between(PRODUCE, PRODUCE)
    BEFORE_OFFSETS = Between(PRODUCE, TXN_OFFSET_COMMIT)
    AFTER_OFFSETS = Between(TXN_OFFSET_COMMIT, END_TXN)


Held = Literal["commit", "abort", "offsets"]
Load = Literal["idle", "small", "backlog"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. ``share``: of a thousand trials.

    ``kills``: kill -9 at the moment of delivery, or after the end of the transaction that it is delivered in.
    ``cut``: the connection of the request is closed; else the client waits for an answer until it gives up.
    """

    share: int
    role: Literal["join", "train", "dlq"]
    load: Load
    held: Held
    at: Moment
    kills: Literal["", "at once", "at the end"] = ""
    cut: bool = True

    @property
    def name(self) -> str:
        parts = [self.role, self.load, self.held, self.at.name.lower().replace("_", " ")]
        if self.kills:
            parts.append(f"killed {self.kills}")
        if not self.cut:
            parts.append("stalled")
        return ", ".join(parts)


KINDS = (
    Kind(30, "join", "idle", "commit", Moment.SOON),
    Kind(100, "join", "small", "commit", Moment.SOON),
    Kind(100, "join", "small", "commit", Moment.BEFORE_RECORDS),
    Kind(90, "join", "small", "commit", Moment.BEFORE_RECORDS, kills="at once"),
    Kind(110, "join", "backlog", "commit", Moment.BEFORE_OFFSETS),
    Kind(50, "join", "backlog", "commit", Moment.BEFORE_OFFSETS, kills="at once"),
    Kind(50, "join", "small", "abort", Moment.BEFORE_PARTITIONS, kills="at the end"),
    Kind(50, "join", "backlog", "abort", Moment.BEFORE_OFFSETS),
    Kind(80, "join", "small", "offsets", Moment.AFTER_OFFSETS, kills="at the end"),
    Kind(10, "join", "small", "commit", Moment.BEFORE_RECORDS, cut=False),
    Kind(20, "train", "idle", "commit", Moment.SOON),
    Kind(60, "train", "small", "commit", Moment.SOON),
    Kind(60, "train", "small", "commit", Moment.BEFORE_RECORDS),
    Kind(50, "train", "small", "commit", Moment.BETWEEN_RECORDS, kills="at once"),
    Kind(20, "train", "small", "offsets", Moment.AFTER_OFFSETS, kills="at the end"),
    Kind(60, "dlq", "small", "commit", Moment.SOON),
    Kind(60, "dlq", "small", "commit", Moment.BETWEEN_RECORDS, kills="at once"),
)
