"""A batch under way: what it emits, counts and refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ...schemas.topics import LABELS, PREDICTIONS
from .reading.batch import Batch, Records, Refused, Rerouted
from .records import KeptLabel, Track
from .rules import Rules
from .vitals.builder import Tally


@dataclass(slots=True)
class Effects:
    """What a batch emits, in one transaction with its offsets: all of it, or nothing.

    ``outcomes``: key and value, for the outcomes partition of the same number. ``vitals``: partition, value.
    """

    outcomes: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    vitals: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    rerouted: list[Rerouted] = field(default_factory=list[Rerouted])
    refused: list[Refused] = field(default_factory=list[Refused])

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.vitals or self.rerouted or self.refused)


class Work:
    """One batch of one partition. ``replaying``: it was processed before, so nothing is emitted."""

    __slots__ = ("counts", "effects", "next_seq", "partition", "replaying", "rules", "tallies")

    def __init__(self, partition: int, rules: Rules, next_seq: int, *, replaying: bool = False) -> None:
        self.partition = partition
        self.rules = rules
        self.next_seq = next_seq
        self.replaying = replaying
        self.effects = Effects()
        self.tallies: dict[Track, Tally] = {}
        self.counts: Counter[str] = Counter()

    def accept(self, batch: Batch) -> None:
        """Takes over what was already decided when the batch was read."""
        self.effects.refused = list(batch.refused)
        self.effects.rerouted = batch.rerouted
        self.counts["misrouted"] += len(batch.rerouted)
        self.counts["dead"] += len(batch.refused)

    def tally(self, track: Track) -> Tally:
        found = self.tallies.get(track)
        if found is None:
            found = self.tallies[track] = Tally(track, self.rules.of(track.model))
        return found

    def refuse_prediction(self, records: Records, index: int, reason: str, tally: Tally | None) -> None:
        """``tally``: whose it is, where that is known."""
        (self.counts if tally is None else tally.counts)["dead"] += 1
        self._refuse(
            Refused(
                PREDICTIONS,
                self.partition,
                records.offsets[index],
                records.append_ms[index],
                records.keys[index],
                records.values[index],
                reason,
                records.headers(index),
            )
        )

    def refuse_label(self, label: KeptLabel, reason: str) -> None:
        self.counts["dead"] += 1
        self._refuse(
            Refused(LABELS, self.partition, label.offset, label.append_ms, label.key, label.value, reason)
        )

    def _refuse(self, refused: Refused) -> None:
        if not self.replaying:
            self.effects.refused.append(refused)
