"""Restoring a partition's state to where its group committed: from local state, or from the log alone.

1. The state on disk is used if it stands at or before the committed offsets and the log still has what
   follows. Otherwise everything within the horizon is replayed.
2. Dead letters since then say which inputs were refused when they were first read. They are skipped, so a
   spec published later changes nothing that has happened.
3. Inputs are replayed up to the committed offsets, both topics side by side by append time.
4. Outcomes since then are replayed: they say which label, revision and seq each matched prediction carries.

Nothing is emitted, and the partition's topics stay paused. On failure: the state on disk is one that the next
start can continue from, because an interrupted restoration is recorded in it.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping

from confluent_kafka import Message

from ....schemas.errors import DecodeError
from ....schemas.events import DeadLetter
from ....schemas.topics import DEAD_LETTERS, LABELS, OUTCOMES, PREDICTIONS, Topic
from ...kafka.connection import Connection
from ...kafka.offsets import LogOffsets
from ...kafka.ranges import LogRanges
from ..partition import AssignedPartition
from ..reading.batch import STAGE, Records
from ..reading.columns import append_ms_of, columns_of, offset_of
from ..state.position import BUCKET_MS, INPUTS, Position
from ..stats import RestoreStats

log = logging.getLogger(__name__)

_READ = (PREDICTIONS, LABELS, DEAD_LETTERS, OUTCOMES)


class Restoration:
    """Restores one partition. ``steps`` works in small steps, so that the group is polled in between."""

    def __init__(
        self,
        connection: Connection,
        offsets: LogOffsets,
        owned: AssignedPartition,
        target: Position,
        stats: RestoreStats,
        *,
        flush_ids: int,
    ) -> None:
        """``target``: the committed position. ``stats``: updated with the progress."""
        self._connection = connection
        self._offsets = offsets
        self._owned = owned
        self._target = target
        self._flush_ids = flush_ids
        self._stats = stats
        self._partition = owned.number

    def state_is_usable(self) -> bool:
        """Whether the restoration can continue from the partition's state."""
        position, target = self._position, self._target
        if position.newest_ms == 0 and position.replay_outcomes_from_ms == 0:
            return False
        behind = position.predictions <= target.predictions and position.labels <= target.labels
        return behind and (
            self._begin(PREDICTIONS) <= position.predictions and self._begin(LABELS) <= position.labels
        )

    @property
    def _position(self) -> Position:
        return self._owned.joiner.position

    def remaining(self) -> int:
        """Return how many offsets of inputs are between the state and the target."""
        return sum(self._target.offsets) - sum(self._position.offsets)

    def start(self) -> Position:
        """Return where an empty state must begin: nothing before that can matter at the target."""
        # What expiry has not reached is kept, however far the topics were read: one of them may be behind,
        # and expiry behind both.
        join, expired_ms = self._owned.joiner.rules.join, BUCKET_MS * min(self._target.expired)
        since_ms = expired_ms - join.correction_window - join.early_horizon - 2 * join.clock_skew
        first_ms = max(0, since_ms - join.horizon)
        return Position(
            predictions=min(self._target.predictions, self._at(PREDICTIONS, first_ms)),
            labels=min(self._target.labels, self._at(LABELS, first_ms)),
            replay_outcomes_from_ms=max(1, since_ms),
        )

    def steps(self, start: Position) -> Generator[int, None, None]:
        """Restore; yield how many records each step took. Raises BrokerError if the log cannot be read."""
        joiner, target = self._owned.joiner, self._target
        if joiner.position.offsets == target.offsets and not joiner.position.replay_outcomes_from_ms:
            self._finish(0)
            return
        outcomes_ms = joiner.begin_restore(start)
        outcomes_end = self._offsets.ends(OUTCOMES, [self._partition])[self._partition]
        outcomes_start = min(outcomes_end, self._at(OUTCOMES, outcomes_ms))
        self._stats.total = self.remaining() + outcomes_end - outcomes_start
        readers = {topic: LogRanges(self._connection, name=f"join-{topic.name}") for topic in _READ}
        try:
            refused = self._refused(readers[DEAD_LETTERS], self._first_ms(outcomes_ms))
            yield from self._replay(readers, refused)
            next_seq = yield from self._replay_outcomes(readers[OUTCOMES], outcomes_start, outcomes_end)
        finally:
            for reader in readers.values():
                reader.close()
        self._stats.done = self._stats.total  # markers of transactions are offsets too
        self._finish(next_seq)

    def _finish(self, next_seq: int) -> None:
        """Finish at the target. Offsets set by hand come without the rest: state and log have it."""
        joiner, target = self._owned.joiner, self._target
        restored = joiner.position
        joiner.finish_restore(
            target._replace(
                next_seq=max(target.next_seq, restored.next_seq, next_seq),
                predictions_ms=max(target.predictions_ms, restored.predictions_ms),
                labels_ms=max(target.labels_ms, restored.labels_ms),
            )
        )

    def books_are_right(self) -> bool:
        """Whether as much is pending in the restored state as was committed; else log by how much it differs.

        A state that makes books balance which did not is right, too.
        """
        books, committed = self._owned.joiner.books, self._target.books
        if committed is None:
            log.warning("partition %d: the books are opened again: %s", self._partition, books)
            return True
        if books.pending == committed.pending:
            return True
        log.error(
            "partition %d: %d predictions and %d labels are pending in the state restored from %s, "
            "but %d and %d were committed",
            *(self._partition, *books.pending, self._stats.source, *committed.pending),
        )
        return books.difference == (0, 0)

    def _first_ms(self, outcomes_ms: int) -> int:
        """Return a time before which no input that is still to be replayed was appended, so none refused."""
        newest_ms, join = self._position.newest_ms, self._owned.joiner.rules.join
        if newest_ms:
            return min(outcomes_ms, newest_ms - join.clock_skew)
        return outcomes_ms - join.horizon - join.clock_skew

    def _replay(self, readers: Mapping[Topic, LogRanges], refused: Mapping[str, set[int]]) -> Iterator[int]:
        joiner, target = self._owned.joiner, self._target
        position = joiner.position
        sources = {
            topic: readers[topic].read_chunks(
                topic, self._partition, range(position.next_offset(topic), target.next_offset(topic))
            )
            for topic in INPUTS
        }
        chunks = {topic: next(source, list[Message]()) for topic, source in sources.items()}
        while any(chunks.values()):
            topic = min(
                (topic for topic in chunks if chunks[topic]),
                key=lambda topic: append_ms_of(chunks[topic][-1]),
            )
            chunk = columns_of(chunks[topic])
            batch = self._owned.reader.read(
                chunk if topic is PREDICTIONS else Records(),
                chunk if topic is LABELS else Records(),
                skip_predictions=refused[PREDICTIONS.name],
                skip_labels=refused[LABELS.name],
            )
            before = self.remaining()
            joiner.replay(batch, target.expired)
            self._stats.done += before - self.remaining()
            self._stats.records += len(chunk)
            self._write_behind()
            yield len(chunk)
            chunks[topic] = next(sources[topic], list[Message]())

    def _refused(self, reader: LogRanges, first_ms: int) -> dict[str, set[int]]:
        """Return which offsets of this partition's inputs were refused since then, by topic."""
        names = {self._connection.topic(topic): topic.name for topic in INPUTS}
        found: dict[str, set[int]] = {name: set() for name in names.values()}
        partitions = self._offsets.partitions(DEAD_LETTERS)
        starts = self._offsets.at(DEAD_LETTERS, dict.fromkeys(partitions, first_ms))
        ends = self._offsets.ends(DEAD_LETTERS, partitions)
        for record in reader.read(DEAD_LETTERS, {p: range(starts[p], ends[p]) for p in partitions}):
            try:
                dead_letter = DeadLetter.decode(record.value() or b"")
            except DecodeError as error:
                log.warning("not a dead letter: %s offset %d: %s", record.topic(), record.offset(), error)
                continue
            if (dead_letter.stage, dead_letter.partition) == (STAGE, self._partition) and (
                dead_letter.topic in names
            ):
                found[names[dead_letter.topic]].add(dead_letter.offset)
        return found

    def _replay_outcomes(self, reader: LogRanges, start: int, end: int) -> Generator[int, None, int]:
        """Take over what was emitted; return the seq after the last."""
        next_seq, at = 0, start
        for chunk in reader.read_chunks(OUTCOMES, self._partition, range(start, end)):
            for record in chunk:
                seq = self._owned.joiner.replay_outcome(record.value() or b"", append_ms_of(record))
                next_seq = max(next_seq, seq + 1)
            reached = offset_of(chunk[-1]) + 1
            self._stats.done += reached - at
            self._stats.records += len(chunk)
            self._stats.outcomes += len(chunk)
            at = reached
            self._write_behind()
            yield len(chunk)
        return next_seq

    def _write_behind(self) -> None:
        if self._owned.joiner.unwritten > self._flush_ids:
            self._owned.joiner.flush()

    def _begin(self, topic: Topic) -> int:
        return self._offsets.begins(topic, [self._partition])[self._partition]

    def _at(self, topic: Topic, time_ms: int) -> int:
        return self._offsets.at(topic, {self._partition: time_ms})[self._partition]
