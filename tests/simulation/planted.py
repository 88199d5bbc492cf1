"""Bugs planted in the product: small changes such as somebody might make, which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from driftloop.schemas.topics import MONITOR_STATE
from driftloop.streams.join import batch_writer, shell
from driftloop.streams.join.batch_output import BatchContext
from driftloop.streams.join.core import Joiner
from driftloop.streams.join.flow_control import FlowControl
from driftloop.streams.join.recovery.loading import PartitionLoader
from driftloop.streams.join.recovery.restore import Restoration
from driftloop.streams.join.state.books import Books
from driftloop.streams.join.state.position import NO_WATERMARKS, Position, Watermarks
from driftloop.streams.kafka import transactions
from driftloop.streams.kafka.doubt import Doubt
from driftloop.streams.kafka.transactions import Aborted, Consumed, Transactions
from driftloop.streams.monitor import shell as monitor_shell
from driftloop.streams.monitor.snapshots import SLOTS, Snapshot, encode_snapshot
from driftloop.streams.train import shell as train_shell
from driftloop.streams.train import step_writer

from tests.simulation.broker.group import GroupMetadata
from tests.simulation.clock import EPOCH_S

_run = Transactions.run
_write = batch_writer.BatchWriter.write
_load = PartitionLoader.load
_offsets_of = shell.offsets_of
_accounts = BatchContext.accounts
_send = monitor_shell.MonitorShell._send
_save = monitor_shell.MonitorShell._save
_apply = monitor_shell.MonitorShell._apply

Plant = Callable[[], AbstractContextManager[Any]]


class Planted(NamedTuple):
    """A bug of a role."""

    role: str
    bug: str
    plant: Plant


def _never_in_doubt(self: Any) -> None:
    self.tend()


def _commit_before_produce(self: Any, outputs: Any, consumed: Consumed, observe: Any) -> None:
    self._transactions.run(lambda: None, consumed, observe=observe)
    _run(self._transactions, lambda: [self._send(p, output) for p, output in outputs.items()])


def _produce_before_offsets(self: Any, outputs: Any, consumed: Consumed, observe: Any) -> None:
    _run(self._transactions, lambda: [self._send(p, output) for p, output in outputs.items()])
    self._transactions.run(lambda: None, consumed, observe=observe)


def _without_offsets(self: Any, write: Any, _consumed: Any = None, **options: Any) -> None:
    _run(self, write, None, **options)


def _without_membership(self: Any, write: Any, consumed: Consumed | None = None, **options: Any) -> None:
    if consumed is not None:
        consumed = Consumed(consumed.offsets, GroupMetadata(consumed.group.group, -1, 0, ""))
    _run(self, write, consumed, **options)


def _aborts_are_ignored(self: Any, outputs: Any, consumed: Consumed, observe: Any) -> None:
    try:
        _write(self, outputs, consumed, observe)
    except Aborted:
        observe("aborted")


def _unanswered_is_done(self: Any, _name: str, call: Callable[[], None]) -> None:
    try:
        call()
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if not reason.retriable():
            raise
        self._doubt.raised = True


def _no_seek(self: Any, number: int, position: Position) -> None:
    self._partitions[number].alignment.restart(position)


def _idle_without_asking(
    self: Any, topic: Any, positions: Mapping[int, Position], newest_ms: int
) -> Iterator[int]:
    for number in positions:
        partition = self._partitions[number]
        partition.idle = partition.idle.advanced(topic, newest_ms)
        yield number


def _end_of_committed(self: Any, topic: Any, numbers: list[int]) -> dict[int, int]:
    places = {number: TopicPartition(self._names[topic], number) for number in numbers}
    return {number: self._consumer.get_watermark_offsets(place)[1] for number, place in places.items()}


def _one_watermark(self: Position, idle: Watermarks = NO_WATERMARKS) -> Watermarks:
    newest_ms = max(self.predictions_ms, self.labels_ms, *idle)
    return Watermarks(newest_ms, newest_ms)


def _only_predictions(names: Any, partition: int, position: Position) -> Any:
    return _offsets_of(names, partition, position)[:1]


def _nothing_to_restore(_self: Restoration, _start: Position) -> Generator[int, None, None]:
    _self._owned.joiner.finish_restore(_self._target)
    yield 0


def _without_expired(self: Any, batch: Any, first_seq: int) -> Books:
    return Books(*(one._replace(expired=0) for one in _accounts(self, batch, first_seq)))


def _no_outcomes_replayed(_self: Any, _reader: Any, _start: int, _end: int) -> Generator[int, None, int]:
    yield 0
    return 0


def _same_epoch(self: Any) -> None:
    self.tend()
    if self._doubt.raised:
        before, self._doubt = self._producer, Doubt(self._config)
        self._producer = transactions.Producer(transactions.watched(self._config), logger=self._doubt)
        self._producer._id, self._producer._sequences = before._id, before._sequences


@contextmanager
def _replay_emits() -> Generator[None]:
    """What was read since the last flush is read once more, as if it were new."""

    def load(self: Any, number: int, committed: Position | None) -> Any:
        owned = _load(self, number, committed)
        if owned.restoring is not None and owned.joiner.position.newest_ms:
            owned.restoring = None
        return owned

    def places(self: Any, number: int, position: Position = shell._BEGIN) -> Any:
        owned = self._owned.get(number)
        return _places(self, number, position if owned is None else owned.joiner.position)

    _places = shell._JoinShell._places
    with (
        mock.patch.object(PartitionLoader, "load", load),
        mock.patch.object(shell._JoinShell, "_places", places),
    ):
        yield


def _patched(target: Any, name: str, stand_in: Any) -> Plant:
    return lambda: mock.patch.object(target, name, stand_in)


JOINER: dict[str, Plant] = {
    "a late EndTxn acts on the next transaction (doubt is never raised)": _patched(
        Transactions, "_replace_in_doubt", _never_in_doubt
    ),
    "offsets are committed before outcomes are produced": _patched(
        batch_writer.BatchWriter, "write", _commit_before_produce
    ),
    "outcomes are committed before offsets": _patched(
        batch_writer.BatchWriter, "write", _produce_before_offsets
    ),
    "offsets are not sent": _patched(Transactions, "run", _without_offsets),
    "the offset of labels is not sent": _patched(shell, "offsets_of", _only_predictions),
    "the group's metadata is not sent": _patched(Transactions, "run", _without_membership),
    "an abort is ignored": _patched(batch_writer.BatchWriter, "write", _aborts_are_ignored),
    "an unanswered commit is taken for done": _patched(Transactions, "_retry", _unanswered_is_done),
    "no seek after an abort": _patched(FlowControl, "rewind", _no_seek),
    "state is kept although its transaction was aborted": _patched(Joiner, "rollback", Joiner.commit),
    "staged state is not dropped after an abort": _patched(Joiner, "rollback", lambda _self: None),
    "a new producer goes on with the old epoch (no init_transactions)": _patched(
        Transactions, "_replace_in_doubt", _same_epoch
    ),
    "an idle topic's watermark advances without asking the broker": _patched(
        FlowControl, "_advance_idle_topic", _idle_without_asking
    ),
    "a topic that an open transaction holds back counts as idle": _patched(
        FlowControl, "_log_ends", _end_of_committed
    ),
    "one topic's watermark expires the other": _patched(Position, "watermarks", _one_watermark),
    "replay emits again": _replay_emits,
    "the log is not replayed": _patched(Restoration, "steps", _nothing_to_restore),
    "emitted outcomes are not replayed": _patched(Restoration, "_replay_outcomes", _no_outcomes_replayed),
    "the books forget what expired": _patched(BatchContext, "accounts", _without_expired),
}


async def _snapshot_beyond(self: Any, tp: Any, owned: Any, snapshot: Snapshot) -> None:
    client, topic = self.client, self._connection.topic(MONITOR_STATE)
    beside = type(client)(client._simulation, client._loop)  # another connection overtakes the events
    for key, value in encode_snapshot(snapshot, partition=tp.partition):
        await (await beside.send(topic, key, value, tp.partition))
    owned.slot = (owned.slot + 1) % SLOTS


def _beyond(self: Any, tp: Any, owned: Any) -> Any:
    """The state of the next record's offset, without that record."""
    owned.cursor += 1
    try:
        return _save(self, tp, owned)
    finally:
        owned.cursor -= 1


async def _snapshot_before_events(self: Any, events: Any) -> Any:
    for tp, owned in self._owned.items():
        if events and owned.core.applied_offset > owned.cursor:
            snapshot = Snapshot(owned.core.applied_offset, owned.core.snapshot(), owned.slot)
            for key, value in encode_snapshot(snapshot, partition=tp.partition):
                await self.client.send(self._connection.topic(MONITOR_STATE), key, value, tp.partition)
    return await _send(self, events)


async def _gaps_are_passed_over(self: Any, _tp: Any, owned: Any, message: Any) -> None:
    await self._apply(owned, message)


async def _clock_of_its_own(self: Any, owned: Any, message: Any) -> None:
    message.timestamp = EPOCH_S + monitor_shell.time.monotonic()
    await _apply(self, owned, message)


MONITOR: dict[str, Plant] = {
    "a snapshot is beyond what was acknowledged": _patched(
        monitor_shell.MonitorShell, "_write", _snapshot_beyond
    ),
    "a snapshot is written before the events of its last record": _patched(
        monitor_shell.MonitorShell, "_send", _snapshot_before_events
    ),
    "a snapshot says an offset too high": _patched(monitor_shell.MonitorShell, "_save", _beyond),
    "a gap in what is delivered is passed over": _patched(
        monitor_shell.MonitorShell, "_reread", _gaps_are_passed_over
    ),
    "the monitor's own clock is used for append times": _patched(
        monitor_shell.MonitorShell, "_apply", _clock_of_its_own
    ),
}


def _offsets_forgotten(self: Any, outputs: Any, consumed: Consumed) -> None:
    self._transactions.run(lambda: self._send(outputs))


def _offsets_first(self: Any, outputs: Any, consumed: Consumed) -> None:
    self._transactions.run(lambda: None, consumed)
    self._transactions.run(lambda: self._send(outputs))


def _state_kept(self: Any) -> None:
    """After an abort the trainer reads on with what its cores believe."""


def _not_rebuilt(*_arguments: Any) -> None:
    """The state topics are not read."""


TRAINER: dict[str, Plant] = {
    "a late EndTxn acts on the trainer's next transaction": _patched(
        Transactions, "_replace_in_doubt", _never_in_doubt
    ),
    "the trainer forgets its offsets": _patched(step_writer.StepWriter, "write", _offsets_forgotten),
    "the trainer commits offsets before its decision": _patched(
        step_writer.StepWriter, "write", _offsets_first
    ),
    "the trainer keeps its state after an abort": _patched(train_shell.TrainerShell, "_rewind", _state_kept),
    "the trainer does not rebuild its state": _patched(train_shell, "rebuild", _not_rebuilt),
}

PLANTED = (
    [Planted("join", bug, plant) for bug, plant in JOINER.items()]
    + [Planted("monitor", bug, plant) for bug, plant in MONITOR.items()]
    + [Planted("train", bug, plant) for bug, plant in TRAINER.items()]
)
