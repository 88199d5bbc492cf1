"""The joiner on Kafka: a loop of batches, each one transaction.

The steps of a batch in order, and what is left if the process dies right after each (†):

1. The group's metadata is captured and a batch is fetched; nothing is consumed between the last fetch and the
   commit (librdkafka's queue is the prefetch).  †: nothing has happened.
2. The core processes it: changes are staged in memory.  †: nothing has happened.
3. Outcomes, vitals, misrouted records and dead letters are produced in a transaction.  †: the next start of
   this instance aborts it; read_committed readers never see it.
4. The offsets of both topics, each with the whole position as metadata, are sent to the transaction. A member
   whose generation is over is refused here, and aborts.  †: as before.
5. The transaction commits.  †: the batch has happened. Memory is lost and the disk is behind: the next start
   replays the log from where the disk stands to the committed offsets without emitting, and replays the
   outcomes and dead letters that were emitted meanwhile (``recovery.restore``).
6. The core keeps the staged changes.  †: as before.
7. At intervals the state is written behind: entries, expiry lists and the position in one atomic write.
   †: less is to be replayed.
8. At longer intervals what 7 has written becomes a checkpoint in the artifact store, in the background
   (``recovery.checkpointer``).  †: the one before is used.

An abort drops what 2 staged and rewinds both topics to the committed position. A partition that is revoked
has no open transaction, because callbacks run inside the fetch only: its state is written and closed, and
what was fetched of it is dropped, for its next owner to read. The same holds for a lost one: its state stands
at what was committed.

On failure: BrokerError and StateError end the process and say why; the supervisor reports them.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from confluent_kafka import Consumer, Message, TopicPartition

from ...schemas.errors import BrokerError, StateError
from ...schemas.topics import Topic
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets, committed_offsets
from ..kafka.reader import raise_if_final
from ..kafka.stop_deadline import close_in_time, stopping_within
from ..kafka.transactions import Aborted, Consumed, unobserved
from .batch_writer import BatchWriter
from .committed import offsets_of, position_of
from .config import JoinTuning
from .fetching import Fetched, sorted_messages
from .flow_control import FlowControl
from .partition import AssignedPartition
from .reading.batch import Batch, Records
from .recovery.checkpointer import Checkpointer
from .recovery.data_loss import DataLossCheck
from .recovery.loading import PartitionLoader
from .recovery.progress import ProgressReporter
from .specs import JoinRules
from .state.position import INPUTS, Position
from .stats import JoinStats

log = logging.getLogger(__name__)

GROUP = "join"
_IDLE_S = 0.1  # how long a fetch waits for the first record; a stop is noticed within it
_STOP_S = 4.5  # then the process ends by force: the log has everything, so nothing is lost
_WATCH_S = 1.0
_FORCED_FLUSH_S = 0.5
_BEGIN = Position()
_COMMITTED_S = 30.0  # longer than a predecessor's transaction may stay open
_MAX_ABORTS = 10  # in a row: then something is wrong that repeating cannot repair


def run_joiner(
    connection: Connection,
    *,
    state_dir: Path,
    instance_id: str,
    stop: threading.Event,
    store_url: str | None = None,
    tuning: JoinTuning | None = None,
    stats: JoinStats | None = None,
    observe: Callable[[str], None] = unobserved,
) -> None:
    """Join until ``stop`` is set. ``observe`` is called after each step of a batch.

    ``store_url``: the artifact store, for checkpoints; without it there are none.

    Raises BrokerError and StateError as the module says, TopicError when the topics do not fit each other.
    """
    tuning, stats = tuning or JoinTuning(), stats or JoinStats()
    with stopping_within(_STOP_S, stop):
        shell = _JoinShell(connection, state_dir, instance_id, store_url, tuning, stats, observe)
        collecting = gc.isenabled()
        gc.disable()
        try:
            shell.run(stop)
        except BaseException:
            with suppress(StateError):  # what ended the joiner is reported, not what follows from it
                shell.close()
            raise
        else:
            shell.close()
        finally:
            gc.unfreeze()  # what the process still has besides the joiner can be collected again
            if collecting:
                gc.enable()


class _JoinShell:
    def __init__(
        self,
        connection: Connection,
        state_dir: Path,
        instance_id: str,
        store_url: str | None,
        tuning: JoinTuning,
        stats: JoinStats,
        observe: Callable[[str], None],
    ) -> None:
        self._tuning, self._stats, self._observe = tuning, stats, observe
        self._names = {topic: connection.topic(topic) for topic in INPUTS}
        self._topics = {name: topic for topic, name in self._names.items()}
        self._owned: dict[int, AssignedPartition] = {}
        self._epoch = 0
        self._closing = False
        self._aborts_in_a_row = 0
        self._watched_at = 0.0
        self._writer = BatchWriter(connection, instance_id)
        self._reports = ProgressReporter(connection, instance_id)
        offsets = LogOffsets(connection)
        self._data_loss = DataLossCheck(connection, connection.group(GROUP), offsets, self._reports, stats)
        self._specs = JoinRules(connection, offsets)
        self._loader = PartitionLoader(
            connection, offsets, self._specs, self._reports, state_dir, tuning, stats, store_url
        )
        self._checkpointer: Checkpointer | None = None
        if self._loader.checkpoints is not None and tuning.checkpoint_interval_s > 0:
            self._checkpointer = Checkpointer(self._loader.checkpoints, state_dir, tuning, stats)
        self._consumer = Consumer(
            connection.consumer(
                GROUP,
                group_instance_id=instance_id,
                auto_offset_reset="error",
                queued_max_messages_kbytes=16_384,
            )
        )
        self._flow = FlowControl(self._consumer, offsets, self._names, tuning, stats)
        self._consumer.subscribe(list(self._topics), on_assign=self._assigned, on_revoke=self._revoked)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._specs.poll()
            group_metadata = self._consumer.consumer_group_metadata()
            batches = self._batches(self._flow.release(self._fetch()))
            if (now := time.monotonic()) - self._watched_at > _WATCH_S:
                self._watched_at = now
                self._writer.tend()
                self._reports.tend()
                for number in self._watch():
                    batches.setdefault(number, Batch(Records(), Records()))
            for number in self._with_new_books():
                batches.setdefault(number, Batch(Records(), Records()))
            if batches:
                self._join(batches, group_metadata)
            for number in self._loader.restore_some(self._owned.values()):
                self._stats.books[number] = self._owned[number].joiner.books
                self._consumer.resume(self._places(number))
            self._write_behind(time.monotonic())
            if self._checkpointer is not None:
                self._checkpointer.tend(self._owned.values(), time.monotonic())
            del batches
            # Cycles are rare here, and live state is large: only young objects are searched, then set aside.
            gc.collect(0)
            gc.freeze()

    # Fetching

    def _fetch(self) -> Fetched:
        """Return what has come, per partition and topic; nothing after a rebalance, which rewinds all."""
        epoch = self._epoch
        restoring = any(owned.restoring is not None for owned in self._owned.values())
        messages = self._consumer.consume(1, timeout=0.0 if restoring else _IDLE_S)
        if messages:
            messages += self._consumer.consume(self._tuning.max_batch - 1, timeout=self._tuning.linger_s)
        if epoch != self._epoch:
            for number, position in self._live_positions().items():
                self._flow.rewind(number, position)
            for message in messages:
                raise_if_final(message)  # it came in the same fetch, and nothing comes after it
            return {}
        return sorted_messages(messages, self._topics, self._flow, self._data_loss)

    def _live_positions(self) -> dict[int, Position]:
        return {
            number: owned.joiner.position for number, owned in self._owned.items() if owned.restoring is None
        }

    def _batches(self, fetched: Mapping[int, Mapping[Topic, list[Message]]]) -> dict[int, Batch]:
        batches = {number: self._owned[number].read(messages) for number, messages in fetched.items()}
        known = self._specs.rules.models
        if any(not batch.models() <= known.keys() for batch in batches.values()):
            self._specs.refresh()
        return batches

    # One transaction

    def _join(self, batches: Mapping[int, Batch], group_metadata: object) -> None:
        self._observe("read")
        outputs = {
            number: self._owned[number].process(batch, self._specs.rules, self._flow.idle_watermarks(number))
            for number, batch in batches.items()
        }
        self._observe("processed")
        moved = any(outputs.values()) or any(map(len, batches.values()))
        if moved or any(self._owned[number].books_moved for number in batches):
            offsets = [
                offset
                for number in batches
                for offset in offsets_of(self._names, number, self._owned[number].joiner.staged_position)
            ]
            try:
                self._writer.write(outputs, Consumed(offsets, group_metadata), self._observe)
            except Aborted as aborted:
                if aborted.unknown:
                    self._check_committed(batches)
                return self._rewind(batches, str(aborted))
        self._observe("committed")
        self._aborts_in_a_row = 0
        for number in batches:
            self._stats.books[number] = self._owned[number].commit()
        self._observe("kept")
        stats = self._stats
        stats.batches += 1
        stats.records += sum(map(len, batches.values()))
        for output in outputs.values():
            stats.outcomes += len(output.outcomes)
            stats.dead_letters += len(output.refused)
            stats.misrouted += len(output.misrouted)
        return None

    def _rewind(self, batches: Mapping[int, Batch], reason: str) -> None:
        """Undo a batch, as if it had never been read."""
        self._stats.aborts += 1
        self._aborts_in_a_row += 1
        log.warning("transaction aborted (%d in a row): %s", self._aborts_in_a_row, reason)
        if self._aborts_in_a_row >= _MAX_ABORTS:
            raise BrokerError(f"{_MAX_ABORTS} transactions in a row were aborted, the last one: {reason}")
        for number in batches:
            joiner = self._owned[number].joiner
            joiner.rollback()
            self._flow.rewind(number, joiner.position)

    def _check_committed(self, numbers: Iterable[int]) -> None:
        """Raise BrokerError if the group's offsets are not those of the last batch that was committed."""
        for number in numbers:
            position = self._owned[number].joiner.position
            places = offsets_of(self._names, number, position)
            found = position_of(*committed_offsets(self._consumer, places, timeout_s=_COMMITTED_S))
            if found is not None and found.offsets != position.offsets:
                raise BrokerError(
                    f"partition {number} was committed at {found.offsets}, not at {position.offsets}: a "
                    "request came late; start this joiner again, and it goes on where the log stands"
                )

    # Partitions come and go; these run inside a fetch

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        if self._closing:
            return  # as in a trainer's: a consumer that closes answers no question any more
        self._epoch += 1
        found = committed_offsets(consumer, assigned, timeout_s=_COMMITTED_S)
        committed = {(one.topic, one.partition): one for one in found}
        fetched_from: list[TopicPartition] = []
        paused: list[TopicPartition] = []
        numbers = sorted({one.partition for one in assigned})
        positions = {
            number: position_of(*(committed[self._names[topic], number] for topic in INPUTS))
            for number in numbers
        }
        self._data_loss.check(
            {
                number: {topic: position.next_offset(topic) for topic in INPUTS}
                for number, position in positions.items()
                if position is not None
            }
        )
        for number in numbers:
            owned = self._owned[number] = self._loader.load(number, positions[number])
            position = positions[number] or owned.joiner.position
            self._flow.assign(number, position)
            fetched_from += self._places(number, position)
            if owned.restoring is not None:
                paused += self._places(number)
            else:
                self._stats.books[number] = owned.joiner.books
        consumer.assign(fetched_from)
        consumer.pause(paused)
        self._stats.partitions = len(self._owned)

    def _places(self, number: int, position: Position = _BEGIN) -> list[TopicPartition]:
        return [
            TopicPartition(name, number, position.next_offset(topic)) for topic, name in self._names.items()
        ]

    def _revoked(self, _consumer: Consumer, _revoked: list[TopicPartition]) -> None:
        self._epoch += 1
        self._close_partitions()
        self._flow.revoke()
        self._stats.partitions = 0
        self._stats.books.clear()
        if self._checkpointer is not None:
            self._checkpointer.forget()

    # Upkeep

    def _watch(self) -> set[int]:
        """Note where things stand; return the partitions where a topic is idle while others are not."""
        live = self._live_positions()
        self._stats.lag = self._flow.lag(live)
        self._stats.restoring = len(self._owned) - len(live)
        return self._flow.advance_idle(live)

    def _with_new_books(self) -> list[int]:
        """Return the live partitions whose restoration changed the books, until they are committed."""
        return [n for n, owned in self._owned.items() if owned.restoring is None and owned.books_moved]

    def _write_behind(self, now: float) -> None:
        for owned in self._owned.values():
            if owned.restoring is not None:
                continue
            age_s, joiner = now - owned.flushed_at, owned.joiner
            if (
                (age_s > self._tuning.flush_interval_s and owned.has_moved)
                or joiner.unwritten > self._tuning.flush_ids
                or (joiner.wants_flush and age_s > _FORCED_FLUSH_S)
            ):
                owned.flush(now)
                self._observe("flushed")

    def close(self) -> None:
        """Stop where the last commit left the log, and write the state of that moment."""
        self._closing = True
        with ExitStack() as others:  # closed whatever becomes of the state
            for close in (self._writer.close, self._reports.close, self._specs.close):
                others.callback(close)
            others.callback(close_in_time, self._consumer.close)
            if self._checkpointer is not None:
                others.callback(self._checkpointer.close)
            self._close_partitions()

    def _close_partitions(self) -> None:
        with ExitStack() as partitions:
            for owned in self._owned.values():
                partitions.callback(owned.close)
            self._owned.clear()
