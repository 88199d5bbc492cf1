"""A monitor that runs inside a test, on real Kafka, and what a test needs around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from driftloop.schemas.topics import VITALS, Topic
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.record import Record
from driftloop.streams.monitor.core import Emitted
from driftloop.streams.monitor.faust.app import build_app
from driftloop.streams.monitor.partition import Core
from driftloop.streams.monitor.shell import MonitorSettings, MonitorShell
from driftloop.streams.monitor.snapshots import find_resume_point

from tests.support.kafka.topics import read_topic
from tests.support.monitor.chain_core import ChainCore
from tests.support.monitor.progress import MonitorProgress

QUICK = MonitorSettings(
    snapshot_records=5, snapshot_min_s=0.0, idle_tick_s=None, progress_s=0.1, session_s=6.0
)

STOP_S = 10.0


class LiveVitals:
    """Writes to vitals as the joiner does: in transactions, to explicit partitions."""

    def __init__(self, connection: Connection) -> None:
        self._producer = Producer(connection.transactional("test-join"))
        self._producer.init_transactions()
        self._topic = connection.topic(VITALS)

    def write(self, *values: bytes, partition: int = 0, abort: bool = False) -> None:
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(self._topic, value, partition=partition)
        self._producer.flush()
        if abort:
            self._producer.abort_transaction()
        else:
            self._producer.commit_transaction()


def records(count: int, model: str = "m", start: int = 0) -> list[bytes]:
    return [json.dumps({"model": model, "n": n}).encode() for n in range(start, start + count)]


def read(connection: Connection, topic: Topic) -> list[Record]:
    return list(read_topic(connection, topic))


@contextlib.asynccontextmanager
async def monitor(
    connection: Connection,
    settings: MonitorSettings = QUICK,
    make_core: Callable[[int], Core] = ChainCore,
    restore_core: Callable[[bytes], Core] = ChainCore.restore,
    shell_type: type[MonitorShell] = MonitorShell,
    instance_id: str = "monitor-test",
) -> AsyncIterator[asyncio.Event]:
    """A running monitor inside the test; yields an event that is set when it has crashed."""
    shell = shell_type(connection, make_core, restore_core, settings)
    app = build_app(connection, instance_id, shell, settings)
    app.finalize()
    await app.start()
    crashed = asyncio.Event()
    watch = asyncio.create_task(_watch(app, crashed))
    try:
        yield crashed
    finally:
        watch.cancel()
        if not crashed.is_set():
            await shell.release_all()
        with contextlib.suppress(TimeoutError):  # after a crash Faust's own stop sometimes hangs
            await asyncio.wait_for(app.stop(), STOP_S)


async def _watch(app: object, crashed: asyncio.Event) -> None:
    while app.crash_reason is None:
        await asyncio.sleep(0.02)
    crashed.set()


async def until(condition: Callable[[], bool], what: str, deadline_s: float = 120.0) -> None:
    end = time.monotonic() + deadline_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.05)


async def applied_all(progress: MonitorProgress) -> None:
    await until(lambda: progress.behind() == 0, "everything in vitals is applied")


def replayed(connection: Connection) -> tuple[dict[int, ChainCore], list[Emitted]]:
    """State and events of an offline replay of the committed vitals."""
    cores = {0: ChainCore(0), 1: ChainCore(1)}
    events: list[Emitted] = []
    for record in read(connection, VITALS):
        core = cores[record.partition]
        events += core.apply(record.value or b"", offset=record.offset, append_time_ms=record.append_ms)
    return cores, events


def cut(connection: Connection, before: int) -> None:
    """Remove vitals' first records, as retention does."""
    admin = AdminClient(connection.client())
    place = TopicPartition(connection.topic(VITALS), 0, before)
    admin.delete_records([place])[place].result(10)


def saved(connection: Connection, partition: int) -> ChainCore:
    snapshot = find_resume_point(connection, partition).snapshot
    assert snapshot is not None
    return ChainCore.restore(snapshot.data)
