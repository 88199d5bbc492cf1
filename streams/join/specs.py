"""The specs that the joiner works by, followed on their topic.

On failure: what was known stays known; a record that cannot be read is skipped, loudly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pydantic import ValidationError

from ...schemas.errors import DecodeError
from ...schemas.spec.model import JOIN_KEY, Join, SpecRecord
from ...schemas.topics import SPECS
from ..kafka.connection import Connection
from ..kafka.ranges import LogOffsets, LogRanges
from ..kafka.reader import LogReader, Record, as_record
from .rules import ModelRules, Rules

log = logging.getLogger(__name__)


class SpecFollower:
    """``rules`` are those of all specs read so far; a new value after each change."""

    def __init__(self, connection: Connection, offsets: LogOffsets) -> None:
        """Reads the topic to its end. Raises BrokerError when it cannot be read."""
        self.rules = Rules()
        self._offsets = offsets
        self._partitions = offsets.partitions(SPECS)
        self._next = dict.fromkeys(self._partitions, 0)
        self._reader = LogReader(connection, (SPECS,))
        self._ranges = LogRanges(connection, name="join-specs")
        self._apply(self._reader.catch_up())

    def poll(self) -> None:
        """Takes in what has arrived; costs nothing when nothing has."""
        records = self._reader.poll(0.0)
        if records:
            self._apply(records)

    def refresh(self) -> None:
        """Reads up to the topic's present end, so that a spec applied before this call is known after it."""
        ends = self._offsets.ends(SPECS, self._partitions)
        begins = self._offsets.begins(SPECS, self._partitions)
        starts = {p: max(self._next[p], begins[p]) for p in self._partitions}
        found = self._ranges.read(SPECS, {p: (starts[p], ends[p]) for p in self._partitions})
        self._apply(map(as_record, found))
        self._next = {p: max(starts[p], ends[p]) for p in self._partitions}

    def close(self) -> None:
        self._reader.close()
        self._ranges.close()

    def _apply(self, records: Iterable[Record]) -> None:
        """Both readers give every record, in order; one that came already changes nothing back."""
        join, models = self.rules.join, dict(self.rules.models)
        for record in records:
            if record.key is None or record.offset < self._next[record.partition]:
                continue
            self._next[record.partition] = record.offset + 1
            name = record.key.decode(errors="replace")
            try:
                if name == JOIN_KEY:
                    join = Join() if record.value is None else SpecRecord.decode(record.value).join()
                elif record.value is None:
                    models.pop(name, None)
                else:
                    models[name] = ModelRules.of(SpecRecord.decode(record.value).model_spec())
            except (DecodeError, ValidationError) as error:
                where = f"{record.topic}[{record.partition}] offset {record.offset}"
                log.error("the spec of %r at %s cannot be read and is not applied: %s", name, where, error)
        self.rules = Rules(join, models)
