"""A batch under way: what it emits, counts and refuses."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec

from ...schemas.topics import LABELS, PREDICTIONS
from .reading.batch import Batch, MisroutedRecord, Records, RefusedRecord
from .records import BufferedLabel, Variant
from .rules import Rules
from .vitals.builder import BatchStats


class VitalsMessage(NamedTuple):
    """A message for a partition of vitals."""

    partition: int
    value: bytes


class BatchOutput(msgspec.Struct):
    """What a batch emits, in one transaction with its offsets: all of it, or nothing.

    ``outcomes``: key and value, for the outcomes partition of the same number.
    """

    outcomes: list[tuple[bytes, bytes]] = []
    vitals: list[VitalsMessage] = []
    misrouted: list[MisroutedRecord] = []
    refused: list[RefusedRecord] = []

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.vitals or self.misrouted or self.refused)


class BatchContext(msgspec.Struct):
    """One batch of one partition. ``replaying``: it was processed before, so nothing is emitted."""

    partition: int
    rules: Rules
    next_seq: int
    replaying: bool = False
    output: BatchOutput = msgspec.field(default_factory=BatchOutput)
    stats: dict[Variant, BatchStats] = {}
    counts: Counter[str] = msgspec.field(default_factory=Counter[str])

    def accept(self, batch: Batch) -> None:
        """Take over what was decided when the batch was read."""
        self.output.refused = list(batch.refused)
        self.output.misrouted = batch.misrouted
        self.counts["misrouted"] += len(batch.misrouted)
        self.counts["dead"] += len(batch.refused)

    def stats_of(self, variant: Variant) -> BatchStats:
        found = self.stats.get(variant)
        if found is None:
            found = self.stats[variant] = BatchStats(variant, self.rules.of(variant.model))
        return found

    def refuse_prediction(self, records: Records, index: int, reason: str, stats: BatchStats | None) -> None:
        """``stats``: of its variant, where that is known."""
        (self.counts if stats is None else stats.counts)["dead"] += 1
        if not self.replaying:
            self.output.refused.append(records.refused(PREDICTIONS, self.partition, index, reason))

    def refuse_label(self, label: BufferedLabel, reason: str) -> None:
        self.counts["dead"] += 1
        if not self.replaying:
            self.output.refused.append(
                RefusedRecord(
                    LABELS, self.partition, label.offset, label.append_ms, label.key, label.value, reason
                )
            )
