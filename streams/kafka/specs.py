"""Follow the specs topic: the newest spec of every model, and the deployment's join settings.

On failure: a record that cannot be read is logged. What was known of its model stays in ``models``, and
``problems`` says why the newest record is unknown, for roles that must not go on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pydantic import ValidationError

from ...schemas.errors import BrokerError, DecodeError
from ...schemas.spec.model import JOIN_KEY, Join, ModelSpec, SpecRecord
from ...schemas.topics import SPECS
from .connection import Connection
from .offsets import LogOffsets
from .reader import LogReader
from .record import Record

log = logging.getLogger(__name__)


class SpecFollower:
    """Specs by model, as far as they were read; for one thread."""

    def __init__(self, connection: Connection, *, timeout_s: float = 30.0) -> None:
        """Raise BrokerError when the topic cannot be reached within ``timeout_s``."""
        self.join = Join()
        self.models: dict[str, ModelSpec] = {}
        self.problems: dict[str, str] = {}
        self._reader = LogReader(connection, (SPECS,), timeout_s=timeout_s)

    @property
    def caught_up(self) -> bool:
        """Whether the topic was read to its end."""
        return self._reader.caught_up

    def catch_up(self) -> set[str]:
        """Read the topic to its end. Raises BrokerError when that cannot be done."""
        return self._apply(self._reader.catch_up())

    def poll(self, timeout_s: float = 0.0) -> set[str]:
        """Take in what has arrived; return the keys (models, JOIN_KEY) that changed."""
        return self._apply(self._reader.poll(timeout_s))

    def refresh(self, offsets: LogOffsets, *, timeout_s: float, required: bool = True) -> set[str]:
        """Read up to the topic's present end, so that a spec applied before this call is known after it.

        Returns the keys that changed. Past ``timeout_s`` it raises BrokerError if that is ``required``;
        otherwise the rest is read by the next ``poll``.
        """
        ends = offsets.ends(SPECS, offsets.partitions(SPECS))
        changed: set[str] = set()
        try:
            for record in self._reader.read_to(SPECS, ends, timeout_s):
                changed |= self._apply([record])
        except BrokerError:
            if required:
                raise
        return changed

    def close(self) -> None:
        self._reader.close()

    def _apply(self, records: Iterable[Record]) -> set[str]:
        changed: set[str] = set()
        for record in records:
            if record.key is None:
                continue
            key = record.key.decode(errors="replace")
            changed.add(key)
            self.problems.pop(key, None)
            try:
                self._set(key, None if record.value is None else SpecRecord.decode(record.value))
            except (DecodeError, ValidationError) as error:
                self.problems[key] = str(error)
                where = f"{record.topic}[{record.partition}] offset {record.offset}"
                log.error("the spec of %r at %s cannot be read and is not applied: %s", key, where, error)
        return changed

    def _set(self, key: str, published: SpecRecord | None) -> None:
        if key == JOIN_KEY:
            self.join = Join() if published is None else published.join()
        elif published is None:
            self.models.pop(key, None)
        else:
            self.models[key] = published.model_spec()
