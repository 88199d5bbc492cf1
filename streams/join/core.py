"""The joiner's core: one input partition, batches of records in, outcomes and vitals out. No Kafka, no clock.

What a batch emits is a function of the log alone: of the records, their offsets and append times, and the
specs. Which topic was read first does not matter (``join.matching``), nor when entries are expired
(``join.expiry``).

- ``process`` stages a batch's changes; ``commit`` keeps them once the transaction has committed, ``rollback``
  drops them. ``flush`` writes the state behind, between batches, at any interval.
- ``begin_restore`` begins a restoration: ``replay`` applies records that were processed before and emits
  nothing; ``replay_outcome`` then takes over what the log says was emitted (so revisions and seqs are the
  log's, whatever the specs say by now); ``finish_restore`` ends it at the committed position.

On failure: an exception is a defect; whatever was staged is removed by ``rollback``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import orjson

from ...schemas.base import ClassValue
from ...schemas.partition import partition_of
from .batch_output import BatchContext, BatchOutput, VitalsMessage
from .expiry import Expiry, all_deadlines
from .matching.by_batch import Matching
from .matching.records import KeyState, Match, PendingPrediction, Variant, key_state_of
from .matching.rules import Rules, is_same
from .reading.batch import Batch
from .state.books import Books, Pending
from .state.join_state import JoinState, StateStore
from .state.position import NO_WATERMARKS, ExpiryWatermark, Position, Watermarks
from .vitals.builder import BatchStats, Covered, vitals_messages


class Joiner:
    """One input partition. ``rules`` may be exchanged between batches."""

    def __init__(
        self,
        partition: int,
        store: StateStore,
        rules: Rules,
        *,
        vitals_partitions: int,
        capacity: int = 200_000,
    ) -> None:
        """``capacity``: about how many ids the memory tier holds."""
        self.partition = partition
        self.rules = rules
        self._vitals_partitions = vitals_partitions
        self._state = JoinState(
            store, lambda entries: all_deadlines(entries, self.rules.join), capacity=capacity
        )
        self._matching = Matching(self._state)
        self._expiry = Expiry(self._state)
        self._staged = self._state.position
        self._oldest_ms: int | None = None
        # While outcomes are replayed: what replaying the inputs made of a match, where an outcome differed.
        self._made: dict[tuple[str, Variant], Match] = {}

    @property
    def position(self) -> Position:
        """Where the committed state stands."""
        return self._state.position

    @property
    def staged_position(self) -> Position:
        """Where it will stand after the batch under way: what the transaction must commit."""
        return self._staged

    @property
    def books(self) -> Books:
        """Of the committed state."""
        return self.position.books or Books()

    @property
    def unwritten(self) -> int:
        """How many ids changed since the last flush."""
        return self._state.unwritten

    @property
    def wants_flush(self) -> bool:
        """Whether expiry waits for a flush."""
        return self._expiry.wants_flush

    def process(self, batch: Batch, idle: Watermarks = NO_WATERMARKS) -> BatchOutput:
        """Stage a batch and return what it emits.

        ``idle``: watermarks of topics that were read to their end; whatever they still get will be appended
        after them, so they advance without a record.
        """
        context = BatchContext(self.partition, self.rules, self.position.next_seq)
        context.accept(batch)
        position = self._apply(context, batch)
        position = self._expiry.run(context, position, position.watermarks(idle), self._oldest_ms)
        books = self.books.plus(context.accounts(batch, position.next_seq))
        self._staged = position._replace(next_seq=context.next_seq, books=books)
        self._add_vitals(context, batch)
        return context.output

    def commit(self) -> None:
        """Keep what is staged: the transaction with the batch's output and offsets has committed."""
        self._expiry.applied(self._oldest_ms)
        self._state.commit(self._staged)

    def rollback(self) -> None:
        """Drop what is staged: the transaction was aborted, and the same records will come again."""
        self._state.rollback()
        self._staged = self.position

    def flush(self) -> None:
        """Write the state behind. Only between batches."""
        self._state.flush()
        self._expiry.flushed()

    def begin_restore(self, start: Position) -> int:
        """Begin a restoration, or continue one that was interrupted.

        ``start``: where to replay from if the state is empty. Return the append time from which on outcomes
        must be replayed.
        """
        position = self.position if self.position.newest_ms else start
        since_ms = position.replay_outcomes_from_ms or max(1, position.newest_ms - self.rules.join.clock_skew)
        self._state.commit(position._replace(replay_outcomes_from_ms=since_ms))
        return since_ms

    def replay(self, batch: Batch, most: ExpiryWatermark) -> None:
        """Apply records that were processed before. ``most``: expire no further than this."""
        context = BatchContext(self.partition, self.rules, self.position.next_seq, replaying=True)
        position = self._apply(context, batch)
        position = self._expiry.run(context, position, position.watermarks(), self._oldest_ms, most=most)
        self._staged = _with_pending(position, context.predictions.pending, context.labels.pending)
        self.commit()

    def replay_outcome(self, outcome: bytes, append_ms: int) -> int:
        """Take over an emitted outcome: which label and revision its prediction carries. Return its seq."""
        emitted = cast("dict[str, object]", orjson.loads(outcome))
        name = cast("str", emitted["prediction_id"])
        variant = (emitted["model"], emitted["version"], emitted.get("role", "champion"))
        self._state.fetch((name,))
        entry = self._state.get(name)
        seq = cast("int", emitted["seq"])
        if entry is None:
            return seq
        kept, matched = key_state_of(entry), 0
        predictions: list[PendingPrediction] = []
        for pending in kept.predictions:
            if pending.variant == variant:
                matched += pending.match is None
                pending = pending.matched(self._replayed_match(name, pending, emitted, append_ms))
            predictions.append(pending)
        self._state.put(name, KeyState(tuple(predictions), kept.labels))
        self._state.commit(_with_pending(self.position, -matched, 0) if matched else self.position)
        return seq

    def _replayed_match(
        self, name: str, pending: PendingPrediction, emitted: Mapping[str, object], append_ms: int
    ) -> Match:
        """Combine what replaying the inputs made with what was emitted, which is right where they differ."""
        label = cast("ClassValue | None", emitted.get("label"))
        feedback = label is None
        value = emitted.get("correct") is True if label is None else label
        source = cast("str", emitted.get("source", "system"))
        revision, seq = cast("int", emitted["revision"]), cast("int", emitted["seq"])
        made = self._made.get((name, pending.variant), pending.match)
        if made is None:
            return Match(value, feedback, source, max(pending.append_ms, append_ms), revision, seq)
        # A repeat by a stronger source left no trace in the log but the label itself, which was replayed.
        if is_same(value, feedback, made, self.rules.of(pending.variant.model)):
            source = made.source
        else:
            self._made[name, pending.variant] = made  # a later outcome may be the same again
        return Match(value, feedback, source, made.matched_ms, revision, seq)

    def finish_restore(self, position: Position) -> None:
        """Finish restoring at the committed position and expire everything that had expired there.

        The books are the committed ones, but for what is pending, which is what the state has; if nothing is
        known of them (offsets were set by hand), they are opened again.
        """
        self._made.clear()
        self.flush()
        # Expiry that is not announced (of matched predictions) may have gone further than what was committed.
        position = position.with_expired(position.expired.at_least(self.position.expired))
        while self.position.expired != position.expired:
            context = BatchContext(self.partition, self.rules, 0, replaying=True)
            reached = self._expiry.expire_listed(context, self.position, position.expired)
            self._expiry.applied(None)
            reached = _with_pending(reached, context.predictions.pending, context.labels.pending)
            self._state.commit(reached)
        pending, books = self.books.pending, position.books
        books = Books.opened(pending) if books is None else books.with_pending(pending)
        position = position._replace(books=books)
        self._state.commit(position)
        self._staged = position
        self.flush()

    def _apply(self, context: BatchContext, batch: Batch) -> Position:
        """Apply the records; return the position after them."""
        self._matching.apply(context, batch)
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

    def _add_vitals(self, context: BatchContext, batch: Batch) -> None:
        """Add the vitals of everything the batch did; what belongs to no model goes to vitals partition 0."""
        by_partition: dict[int, list[BatchStats]] = {}
        for stats in context.stats.values():
            if stats.events or stats.seqs or stats.labels or stats.counts.total():
                to = partition_of(stats.variant.model, self._vitals_partitions)
                by_partition.setdefault(to, []).append(stats)
        if context.counts.total():
            by_partition.setdefault(0, [])
        if not by_partition:
            return
        covered = self._covered(context, batch)
        for to, all_stats in sorted(by_partition.items()):
            counts: Mapping[str, int] = context.counts if to == 0 else {}
            messages = vitals_messages(covered, all_stats, counts)
            context.output.vitals.extend(VitalsMessage(to, value) for value in messages)

    def _covered(self, context: BatchContext, batch: Batch) -> Covered:
        before, after = self.position, self._staged
        times = (*batch.prediction_records.append_ms, *batch.label_records.append_ms)
        stamps = [event.ts for stats in context.stats.values() for event in stats.events]
        return Covered(
            self.partition,
            before.offsets,
            after.offsets,
            min(times, default=after.newest_ms),
            max(times, default=after.newest_ms),
            min(stamps, default=None),
            max(stamps, default=None),
        )


def _with_pending(position: Position, predictions: int, labels: int) -> Position:
    """Return the position after a replay that changed what is pending by so many; the log has the rest."""
    books = position.books or Books()
    pending = Pending(books.pending.predictions + predictions, books.pending.labels + labels)
    return position._replace(books=books.with_pending(pending))
