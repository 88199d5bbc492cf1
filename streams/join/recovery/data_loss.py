"""Data loss: records that retention removed before the joiner read them.

It is reported three ways (log, metric, ``driftloop status``) and ends the process: a person must decide what
to do about it, and no later start passes over it by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ....schemas.errors import StateError
from ....schemas.topics import Topic
from ...kafka.connection import Connection
from ...kafka.offsets import LogOffsets
from ..state.position import INPUTS
from ..stats import DataLoss, JoinStats
from .progress import ProgressReporter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataLossCheck:
    """Compares the next offsets with what the log still has. ``group``: whose offsets they are."""

    connection: Connection
    group: str
    offsets: LogOffsets
    reports: ProgressReporter
    stats: JoinStats

    def check(self, next_offsets: Mapping[int, Mapping[Topic, int]]) -> None:
        """Compare per partition and topic. Raises StateError if the log begins after a next offset."""
        found: list[str] = []
        for topic in INPUTS:
            wanted = {number: of[topic] for number, of in next_offsets.items() if topic in of}
            begins = self.offsets.begins(topic, list(wanted)) if wanted else {}
            for number, begin in begins.items():
                missing = begin - wanted[number]
                if missing > 0:
                    self.stats.data_loss.append(DataLoss(topic.name, number, missing))
                    self.reports.data_loss(number, topic.name, missing)
                    where = f"{self.connection.topic(topic)}[{number}]"
                    found.append(f"{where} begins at offset {begin}, {missing} after the next one to read")
        if found:
            self._end(
                f"data loss: {'; '.join(found)}: retention removed records before they were read", "earliest"
            )

    def out_of_range(self, topic: Topic, number: int, wanted: int) -> None:
        """Say why the broker has no such offset. Raises StateError."""
        self.check({number: {topic: wanted}})
        where = f"{self.connection.topic(topic)}[{number}]"
        self._end(
            f"{where} ends before offset {wanted}, which is next: the brokers have lost committed records",
            "latest",
        )

    def _end(self, problem: str, place: str) -> None:
        log.error("%s", problem)
        raise StateError(
            f"{problem}. To continue with what is left, stop the joiners and set the group's offsets "
            f"(kafka-consumer-groups --reset-offsets --to-{place} --group {self.group})"
        )
