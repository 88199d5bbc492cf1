"""The joiner's core: one input partition, batches of records in, outcomes and vitals out. No Kafka, no clock.

What a batch gives is a function of the log alone: of the records, their offsets and append times, and the
specs. Which topic was read first does not matter (``join.matching``), nor when what is over is ended
(``join.eviction``).

- ``process`` stages a batch's changes; ``commit`` keeps them once the transaction has committed, ``rollback``
  forgets them. ``flush`` writes what is kept behind, between batches, at whatever intervals.
- ``restore`` begins a restoration: ``replay`` applies records that were processed before and emits nothing;
  ``recall`` then takes over what the log says was emitted (so revisions and seqs are the log's, whatever the
  specs say by now); ``resume`` ends it at the committed position.

On failure: an exception is a defect; whatever was staged is removed by ``rollback``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import orjson

from ...schemas.base import ClassValue
from ...schemas.partition import partition_of
from .batch_output import Effects, Work
from .expiry import Eviction, all_deadlines
from .matching import Matching
from .reading.batch import Batch
from .records import Group, Held, Match, group_of
from .rules import Rules, is_same
from .state.position import NO_WATERMARKS, ExpiryWatermark, Position, Watermarks
from .state.state import JoinState, Store
from .vitals.builder import Covered, Tally, vitals_messages


class Joiner:
    """One input partition. ``rules`` may be exchanged between batches."""

    def __init__(
        self, partition: int, store: Store, rules: Rules, *, vitals_partitions: int, capacity: int = 200_000
    ) -> None:
        """``capacity``: about how many ids the memory tier holds."""
        self.partition = partition
        self.rules = rules
        self._vitals_partitions = vitals_partitions
        self._state = JoinState(
            store, lambda entries: all_deadlines(entries, self.rules.join), capacity=capacity
        )
        self._matching = Matching(self._state)
        self._eviction = Eviction(self._state)
        self._staged = self._state.position
        self._oldest_ms: int | None = None

    @property
    def position(self) -> Position:
        """Where the committed state stands."""
        return self._state.position

    @property
    def staged_position(self) -> Position:
        """Where it will stand once the batch under way is committed: what the transaction must commit."""
        return self._staged

    @property
    def unwritten(self) -> int:
        """Ids changed since the last flush."""
        return self._state.unwritten

    @property
    def wants_flush(self) -> bool:
        """Whether eviction waits for a flush."""
        return self._eviction.wants_flush

    def process(self, batch: Batch, idle: Watermarks = NO_WATERMARKS) -> Effects:
        """What this batch emits.

        ``idle``: watermarks of topics that were read to their end; whatever they still get will be appended
        after them, so they advance without a record.
        """
        work = Work(self.partition, self.rules, self.position.next_seq)
        work.accept(batch)
        position = self._apply(work, batch)
        position = self._eviction.run(work, position, position.watermarks(idle), self._oldest_ms)
        self._staged = position._replace(next_seq=work.next_seq)
        self._add_vitals(work, batch)
        return work.effects

    def commit(self) -> None:
        """The transaction with the batch's effects and offsets has committed."""
        self._eviction.applied(self._oldest_ms)
        self._state.commit(self._staged)

    def rollback(self) -> None:
        """The transaction was aborted: the same records will come again."""
        self._state.rollback()
        self._staged = self.position

    def flush(self) -> None:
        """Writes the state behind. Only between batches."""
        self._state.flush()
        self._eviction.flushed()

    def warm_up(self) -> None:
        """Reads the store into memory if it fits."""
        self._state.warm_up()

    def restore(self, start: Position) -> int:
        """Begins a restoration, or goes on with one that was interrupted.

        ``start``: where to replay from if nothing is held. Gives the append time from which on outcomes must
        be recalled.
        """
        position = self.position if self.position.newest_ms else start
        since_ms = position.replay_outcomes_from_ms or max(1, position.newest_ms - self.rules.join.clock_skew)
        self._state.commit(position._replace(replay_outcomes_from_ms=since_ms))
        return since_ms

    def replay(self, batch: Batch, most: ExpiryWatermark) -> None:
        """Apply records that were processed before. ``most``: expire no further than this."""
        work = Work(self.partition, self.rules, self.position.next_seq, replaying=True)
        position = self._apply(work, batch)
        self._staged = self._eviction.run(work, position, position.watermarks(), self._oldest_ms, most=most)
        self.commit()

    def recall(self, outcome: bytes, append_ms: int) -> int:
        """Takes over an emitted outcome: which label and revision its prediction carries. Gives its seq."""
        told = cast("dict[str, object]", orjson.loads(outcome))
        name = cast("str", told["prediction_id"])
        track = (told["model"], told["version"], told.get("role", "champion"))
        self._state.fetch((name,))
        entry = self._state.get(name)
        seq = cast("int", told["seq"])
        if entry is None:
            return seq
        group = group_of(entry)
        predictions = tuple(
            [
                held.matched(_recalled(held, told, append_ms)) if held.track == track else held
                for held in group.predictions
            ]
        )
        self._state.put(name, Group(predictions, group.labels))
        self._state.commit(self.position)
        return seq

    def resume(self, position: Position) -> None:
        """Ends a restoration at the committed position: all that had been ended there is ended."""
        self.flush()
        # Ends that nobody was told of (of matched predictions) may have gone further than what was committed.
        position = position.with_expired(position.expired.at_least(self.position.expired))
        while self.position.expired != position.expired:
            work = Work(self.partition, self.rules, 0, replaying=True)
            reached = self._eviction.expire_listed(work, self.position, position.expired)
            self._eviction.applied(None)
            self._state.commit(reached)
        self._state.commit(position)
        self._staged = position
        self.flush()

    def _apply(self, work: Work, batch: Batch) -> Position:
        """Applies the records; gives the position after them."""
        self._matching.apply(work, batch)
        predictions, labels, position = batch.prediction_records, batch.label_records, self.position
        self._oldest_ms = min((*predictions.append_ms, *labels.append_ms), default=None)
        if len(predictions):
            position = position._replace(
                predictions=predictions.offsets[-1] + 1,
                predictions_ms=max(position.predictions_ms, *predictions.append_ms),
            )
        if len(labels):
            position = position._replace(
                labels=labels.offsets[-1] + 1, labels_ms=max(position.labels_ms, *labels.append_ms)
            )
        return position

    def _add_vitals(self, work: Work, batch: Batch) -> None:
        """Vitals of everything the batch did; what belongs to no model goes with vitals partition 0."""
        by_partition: dict[int, list[Tally]] = {}
        for tally in work.tallies.values():
            if tally.events or tally.seqs or tally.labels or tally.counts.total():
                to = partition_of(tally.track.model, self._vitals_partitions)
                by_partition.setdefault(to, []).append(tally)
        if work.counts.total():
            by_partition.setdefault(0, [])
        if not by_partition:
            return
        covered = self._covered(work, batch)
        for to, tallies in sorted(by_partition.items()):
            counts: Mapping[str, int] = work.counts if to == 0 else {}
            work.effects.vitals.extend((to, value) for value in vitals_messages(covered, tallies, counts))

    def _covered(self, work: Work, batch: Batch) -> Covered:
        before, after = self.position, self._staged
        times = (*batch.prediction_records.append_ms, *batch.label_records.append_ms)
        stamps = [event.ts for tally in work.tallies.values() for event in tally.events]
        return Covered(
            self.partition,
            (before.predictions, after.predictions),
            (before.labels, after.labels),
            min(times, default=after.newest_ms),
            max(times, default=after.newest_ms),
            min(stamps, default=None),
            max(stamps, default=None),
        )


def _recalled(held: Held, told: Mapping[str, object], append_ms: int) -> Match:
    """What is held and what was emitted, put together; where they differ, what was emitted is so."""
    label = cast("ClassValue | None", told.get("label"))
    verdict = label is None
    value = told.get("correct") is True if label is None else label
    source = cast("str", told.get("source", "system"))
    match, revision, seq = held.match, cast("int", told["revision"]), cast("int", told["seq"])
    if match is None:
        return Match(value, verdict, source, max(held.append_ms, append_ms), revision, seq)
    # A repeat by a stronger source left no trace in the log but the label itself, which was replayed.
    kept = match.source if is_same(value, verdict, match) else source
    return Match(value, verdict, kept, match.matched_ms, revision, seq)
