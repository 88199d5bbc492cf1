"""Gaps in the log: records that retention removed before the joiner read them.

They are told three ways (log, metric, ``driftloop status``) and end the process: what to do about lost labels
is for a person to decide, and no later start passes over them by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ....schemas.errors import StateError
from ....schemas.topics import Topic
from ...kafka.connection import Connection
from ...kafka.ranges import LogOffsets
from ..config import JoinStats
from ..state.position import INPUTS
from .progress import JoinReports

log = logging.getLogger(__name__)


class GapCheck:
    """Compares what comes next with what the log still has."""

    def __init__(
        self, connection: Connection, group: str, offsets: LogOffsets, reports: JoinReports, stats: JoinStats
    ) -> None:
        self._connection, self._group = connection, connection.group(group)
        self._offsets, self._reports, self._stats = offsets, reports, stats

    def check(self, following: Mapping[int, Mapping[Topic, int]]) -> None:
        """``following``: per partition the next offsets. Raises StateError where the log begins after one."""
        gaps: list[str] = []
        for topic in INPUTS:
            wanted = {number: next_of[topic] for number, next_of in following.items() if topic in next_of}
            begins = self._offsets.begins(topic, list(wanted)) if wanted else {}
            for number, begin in begins.items():
                missing = begin - wanted[number]
                if missing > 0:
                    self._stats.gaps[topic.name, number] = missing
                    self._reports.gap(number, topic.name, missing)
                    where = f"{self._connection.topic(topic)}[{number}]"
                    gaps.append(f"{where} begins at offset {begin}, {missing} after where it stands")
        if gaps:
            self._end(
                f"a gap in the log: {'; '.join(gaps)}: retention removed them before they were read",
                "earliest",
            )

    def out_of_range(self, topic: Topic, number: int, wanted: int) -> None:
        """The broker has no such offset. Raises StateError that says why."""
        self.check({number: {topic: wanted}})
        where = f"{self._connection.topic(topic)}[{number}]"
        self._end(
            f"{where} ends before offset {wanted}, which is next: the brokers have lost committed records",
            "latest",
        )

    def _end(self, problem: str, place: str) -> None:
        log.error("%s", problem)
        raise StateError(
            f"{problem}. To go on with what is left, stop the joiners and set the group's offsets "
            f"(kafka-consumer-groups --reset-offsets --to-{place} --group {self._group})"
        )
