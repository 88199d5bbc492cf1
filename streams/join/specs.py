"""The rules that the joiner works by, made of the published specs."""

from __future__ import annotations

from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets
from ..kafka.specs import SpecFollower
from .matching.rules import ModelRules, Rules

_REFRESH_S = 30.0  # longer than a transaction of `driftloop apply` may stay open


class JoinRules:
    """``rules`` are those of all specs read so far; a new value after each change."""

    def __init__(self, connection: Connection, offsets: LogOffsets) -> None:
        """Read the topic to its end. Raises BrokerError when it cannot be read."""
        self.rules = Rules()
        self._offsets = offsets
        self._specs = SpecFollower(connection)
        self._apply(self._specs.catch_up())

    def poll(self) -> None:
        """Take in what has arrived; costs nothing when nothing has."""
        self._apply(self._specs.poll())

    def refresh(self) -> None:
        """Read up to the topic's present end, so that a spec applied before this call is known after it."""
        self._apply(self._specs.refresh(self._offsets, timeout_s=_REFRESH_S))

    def close(self) -> None:
        self._specs.close()

    def _apply(self, changed: set[str]) -> None:
        if changed:
            models = {model: ModelRules.of(spec) for model, spec in self._specs.models.items()}
            self.rules = Rules(self._specs.join, models)
