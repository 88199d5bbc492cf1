"""A batch under way: what it emits, counts and refuses."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec

from ...schemas.topics import LABELS, PREDICTIONS
from .matching.records import BufferedLabel, Variant
from .matching.rules import Rules
from .reading.batch import Batch, MisroutedRecord, Records, RefusedRecord
from .state.books import Account, Books
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


class Changes(msgspec.Struct):
    """What a batch changes of one account, as far as matching and expiry count it."""

    outcomes: int = 0
    pending: int = 0
    refused: int = 0
    repeated: int = 0


class BatchContext(msgspec.Struct):
    """One batch of one partition. ``replaying``: it was processed before, so nothing is emitted.

    ``predictions`` and ``labels``: what it changes of the books.
    """

    partition: int
    rules: Rules
    next_seq: int
    replaying: bool = False
    output: BatchOutput = msgspec.field(default_factory=BatchOutput)
    stats: dict[Variant, BatchStats] = {}
    counts: Counter[str] = msgspec.field(default_factory=Counter[str])
    predictions: Changes = msgspec.field(default_factory=Changes)
    labels: Changes = msgspec.field(default_factory=Changes)

    def accept(self, batch: Batch) -> None:
        """Take over what was decided when the batch was read."""
        self.output.refused = list(batch.refused)
        self.output.misrouted = batch.misrouted
        self.counts["misrouted"] += len(batch.misrouted)
        self.counts["dead"] += len(batch.refused)
        for record in batch.refused:
            (self.predictions if record.topic is PREDICTIONS else self.labels).refused += 1

    def accounts(self, batch: Batch, first_seq: int) -> Books:
        """Return what the batch adds to the books. ``first_seq``: the next seq before it."""
        misrouted = sum(record.topic is PREDICTIONS for record in batch.misrouted)
        return Books(
            Account(
                read=len(batch.prediction_records),
                outcomes=self.next_seq - first_seq,
                pending=self.predictions.pending,
                expired=sum(stats.counts["expired"] for stats in self.stats.values()),
                refused=self.predictions.refused,
                repeated=self.predictions.repeated,
                misrouted=misrouted,
            ),
            Account(
                read=len(batch.label_records),
                outcomes=self.labels.outcomes,
                pending=self.labels.pending,
                expired=self.counts["expired"],
                refused=self.labels.refused,
                repeated=self.labels.repeated,
                misrouted=len(batch.misrouted) - misrouted,
            ),
        )

    def stats_of(self, variant: Variant) -> BatchStats:
        found = self.stats.get(variant)
        if found is None:
            found = self.stats[variant] = BatchStats(variant, self.rules.of(variant.model))
        return found

    def refuse_prediction(self, records: Records, index: int, reason: str, stats: BatchStats | None) -> None:
        """``stats``: of its variant, where that is known."""
        (self.counts if stats is None else stats.counts)["dead"] += 1
        self.predictions.refused += 1
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
