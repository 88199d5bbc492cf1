"""Faust's Kafka transport for an agent whose state carries its own offset.

Faust's own consumer reads uncommitted records, resumes at the group's committed offset, and its bookkeeping
of acknowledged offsets goes wrong where transactions leave gaps. Here the state says which record it was
applied up to, and that alone decides where reading resumes:

- read_committed: the aiokafka consumer's isolation level is set when it is created;
- resume: after each assignment, and whenever Faust seeks back, partitions are sought to
  ``MonitorShell.resume_at``;
- linked records: each carries the offset of the one read just before it, so that the agent notices when a
  record was dropped between the fetch and itself (Faust clears its buffers on every rebalance);
- progress: the group's committed offset is written for others to read, and never read here;
- no silent reset: where retention has removed what comes next, reading raises instead of jumping ahead.

On failure: any exception here crashes the app; the next start resumes at the shell's offsets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP, AppT, ConsumerMessage, TransportT

from ....schemas.errors import BrokerError
from ..partition import LinkedMessage
from ..shell import MonitorShell
from .membership import LOST_S, CommitRefusals

Record = ConsumerRecord[bytes, bytes]

_faust_log = logging.getLogger("faust")  # Faust's services log under Faust's name


# A partition that has just been read is part of the next fetch only: its next record may wait this long while
# the others are idle. Faust asks for 1,500.
FETCH_WAIT_MS = 20


_LOST = (
    f"the group has refused this member's commits for {LOST_S:g} s: its membership is lost; start it again"
)


class LinkedRecord(NamedTuple):
    """A fetched record with the offset of the one before it."""

    record: Record
    previous: int


class FetchProgress(NamedTuple):
    """The next offset to fetch, and that of the last record passed on."""

    position: int
    last_read: int


class ReadCommittedThread(AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer. Everything below runs in its event loop."""

    logger = _faust_log

    def __post_init__(self) -> None:
        super().__post_init__()
        # Offset of the last record passed on, per partition that was sought here since its assignment.
        self._last_read: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust sets read_committed only for exactly_once, which does not work; aiokafka applies the level
        # when it starts.
        consumer._isolation_level = "read_committed"  # pyright: ignore[reportPrivateUsage]
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # pyright: ignore[reportPrivateUsage]
        return consumer

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        for tp in revoked:
            self._last_read.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # Until they are sought, aiokafka would read these from the group's committed offsets.
        self._last_read.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def _seek_wait(self, consumer: AIOKafkaConsumer, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            self._last_read[tp] = offset - 1
        await super()._seek_wait(consumer, partitions)

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:
        try:
            fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except NoOffsetForPartitionError:
            return {}  # a first start: nothing committed and not yet sought
        except OffsetOutOfRangeError as error:
            partitions = cast("Mapping[TP, int]", error.args[0])
            if not any(tp in self._last_read for tp in partitions):
                return {}  # it was the group's committed offset, which is not used
            raise
        return {tp: self._link(tp, records) for tp, records in fetched.items()}

    def _link(self, tp: TP, records: Iterable[Any]) -> list[LinkedRecord]:
        linked: list[LinkedRecord] = []
        last = self._last_read.get(tp)
        if last is None:
            return linked  # read from another position: the seek that follows reads it again
        for record in cast("Iterable[Record]", records):
            linked.append(LinkedRecord(record, last))
            last = record.offset
        self._last_read[tp] = last
        return linked

    async def progress(self) -> Mapping[TP, FetchProgress]:
        """Return how far each partition that was sought is."""
        return cast("Mapping[TP, FetchProgress]", await self.call_thread(self._progress))

    async def _progress(self) -> Mapping[TP, FetchProgress]:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        return {
            tp: FetchProgress(await consumer.position(tp), last)
            for tp, last in list(self._last_read.items())
            if tp in assigned
        }


class ReadCommittedConsumer(Consumer):
    """Faust's consumer, resuming at the shell's offsets. Topics must be declared with ``acks=False``."""

    logger = _faust_log

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._refusals = CommitRefusals()

    def _new_consumer_thread(self) -> ReadCommittedThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _shell(self) -> MonitorShell:
        return cast(MonitorApp, self.app).shell

    def _to_message(self, tp: TP, record: LinkedRecord) -> ConsumerMessage:
        plain = record.record
        message = LinkedMessage(
            plain.topic,
            plain.partition,
            plain.offset,
            plain.timestamp / 1000.0,
            plain.timestamp_type,
            list(plain.headers),
            plain.key,
            plain.value,
            None,
            plain.serialized_key_size,
            plain.serialized_value_size,
            tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.previous = record.previous
        return message

    async def perform_seek(self) -> None:
        """Seek every assigned partition to where its state stands (Faust: to the committed offset)."""
        assigned = frozenset(self.assignment())
        if assigned:
            await self.seek_wait(await self._shell.resume_at(assigned))

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: a full buffer makes the reader wait in ``put``, which is backpressure enough.

        Faust would take the partition out of the fetch and then sleep a whole second.
        """

    def on_buffer_drop(self, tp: TP) -> None:
        """See on_buffer_full."""

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Publish progress: everything below the committed offset is applied and its events acknowledged.

        Where everything read is applied, the fetch position is committed, so that the lag is 0 although
        transaction markers follow the last record.
        """
        applied = self._shell.applied()
        offsets: dict[TP, int] = {}
        for tp, (position, last_read) in (await cast(ReadCommittedThread, self._thread).progress()).items():
            done = applied.get(tp)
            if done is None:
                continue
            offset = max(position, done + 1) if done >= last_read else done + 1
            if offset != self._committed_offset[tp]:
                offsets[tp] = offset
        if not offsets or not self._refusals.may_commit(now := time.monotonic()):
            return False
        if not await self._commit(offsets):
            if self._refusals.refused(now):
                await self.app.crash(BrokerError(_LOST))
            return False
        self._refusals.accepted()
        self._committed_offset.update(offsets)
        return True


class ReadCommittedTransport(Transport):
    """Kafka transport whose consumer is ReadCommittedConsumer."""

    Consumer = ReadCommittedConsumer


class MonitorApp(faust.App):
    """A Faust app whose shell, not the group, knows the offsets."""

    logger = _faust_log
    shell: MonitorShell

    def _create_directories(self) -> None:
        """Create none: Faust would create them for tables, which are not used, in the working directory."""

    def _new_transport(self) -> TransportT:
        return ReadCommittedTransport(self.conf.broker_consumer, cast(AppT, self))
