"""The monitor under Faust on real Kafka: exact across crashes, failing with a reason, quick to stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from confluent_kafka import Producer
from driftloop.schemas.control import TickControl
from driftloop.schemas.errors import TopicError
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.topics import DEAD_LETTERS, DRIFT, MONITOR_STATE, VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.faust.app import check_topics
from driftloop.streams.monitor.faust.transport import LinkedMessage
from driftloop.streams.monitor.partition import Core
from driftloop.streams.monitor.shell import MonitorSettings, MonitorShell
from driftloop.streams.monitor.snapshots import find_resume_point

from tests.soak.monitor.run import Worker
from tests.support.monitor.chain_core import ChainCore
from tests.support.monitor.live import (
    QUICK,
    LiveVitals,
    applied_all,
    cut,
    monitor,
    read,
    records,
    replayed,
    saved,
    until,
)
from tests.support.monitor.progress import MonitorProgress
from tests.support.paths import ROOT
from tests.support.stopwatch import stopped

pytestmark = pytest.mark.anyio


def test_kills_and_frozen_workers_skip_repeat_and_fork_nothing(topics: Connection) -> None:
    """The short form of the soak; `python -m tests.soak.monitor --kills 100` is the long one."""
    command = [sys.executable, "-m", "tests.soak.monitor", "--kills", "3", "--zombies", "1", "--seed", "3"]
    command += ["--bootstrap", topics.bootstrap_servers, "--prefix", topics.prefix]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["exact"]
    assert report["aborted_transactions"] > 0
    assert report["restored_from_snapshot"] > 0


async def test_a_second_monitor_takes_its_share_where_the_first_left_off(
    topics: Connection, progress: MonitorProgress
) -> None:
    vitals = LiveVitals(topics)
    cores: dict[str, list[ChainCore]] = {"first": [], "second": []}

    def restoring(owner: str) -> Callable[[bytes], Core]:
        def restore(data: bytes) -> Core:
            cores[owner].append(ChainCore.restore(data))
            return cores[owner][-1]

        return restore

    rarely = replace(QUICK, snapshot_records=10_000)  # so that the snapshots are those of the hand-over
    async with monitor(topics, rarely, restore_core=restoring("first"), instance_id="first"):
        for partition in (0, 1):
            vitals.write(*records(20), partition=partition)
        await applied_all(progress)
        async with monitor(topics, rarely, restore_core=restoring("second"), instance_id="second"):
            await until(lambda: all(cores.values()), "both have restored what they own")
            for partition in (0, 1):
                vitals.write(*records(20, start=20), partition=partition)
            await applied_all(progress)
            assert [len(owned) for owned in cores.values()] == [1, 1]
            assert {core.partition for owned in cores.values() for core in owned} == {0, 1}
    states, events = replayed(topics)
    assert {p: saved(topics, p).chains for p in (0, 1)} == {p: core.chains for p, core in states.items()}
    emitted = [record.value for record in read(topics, DRIFT)]
    assert sorted(emitted) == sorted(event.value for event in events if event.topic is DRIFT)


async def test_aborted_records_never_reach_the_core_not_even_the_logs_first(
    topics: Connection, progress: MonitorProgress
) -> None:
    vitals = LiveVitals(topics)
    vitals.write(*records(3, "ghost"), abort=True)
    vitals.write(*records(7, "seen"))
    vitals.write(*records(2, "ghost"), abort=True)
    async with monitor(topics):
        await applied_all(progress)
    state = saved(topics, 0)
    assert set(state.chains) == {"seen"}
    assert state.chains == replayed(topics)[0][0].chains


async def test_progress_reaches_the_logs_end_although_transaction_markers_follow(
    topics: Connection, progress: MonitorProgress
) -> None:
    vitals = LiveVitals(topics)
    vitals.write(*records(4))
    vitals.write(*records(4), abort=True)
    async with monitor(topics):
        await applied_all(progress)
        assert progress.applied() == {0: 10, 1: 0}


async def test_progress_waits_for_what_is_read_but_not_applied(
    topics: Connection, progress: MonitorProgress
) -> None:
    LiveVitals(topics).write(*records(2), b'{"model": "m", "defect": true}', *records(2))
    async with monitor(topics) as crashed:
        await asyncio.wait_for(crashed.wait(), 60)
    assert progress.applied()[0] <= 2
    assert progress.behind() > 0


async def test_a_defect_of_the_core_ends_the_monitor_before_anything_after_it_is_applied(
    topics: Connection, progress: MonitorProgress
) -> None:
    vitals = LiveVitals(topics)
    vitals.write(*records(3))
    async with monitor(topics):  # stops in order, so there is a snapshot; a crash may prevent one
        await applied_all(progress)
    vitals.write(*records(6), b'{"model": "m", "defect": true}', *records(6))
    defect = 3 + 1 + 6  # three records, the end of their transaction, six records
    for _ in range(2):  # and again after a restart: it is never skipped
        async with monitor(topics) as crashed:
            await asyncio.wait_for(crashed.wait(), 60)
        assert 2 <= saved(topics, 0).applied_offset < defect


def test_a_failed_monitor_ends_its_process_with_an_exit_status_and_the_reason(
    topics: Connection, tmp_path: Path
) -> None:
    LiveVitals(topics).write(b'{"model": "m", "defect": true}')
    worker = Worker(topics, "monitor-0", tmp_path)
    assert worker.process.wait(60) == 1
    assert "the monitor failed" in worker.text()
    assert "ArithmeticError: a defect of the core" in worker.text()


async def test_bytes_that_are_not_vitals_reach_dead_letters_and_the_next_record_is_applied(
    topics: Connection, progress: MonitorProgress
) -> None:
    LiveVitals(topics).write(b"", b"\xff\xfe", *records(3))
    async with monitor(topics):
        await applied_all(progress)
    dead_letters = [DeadLetter.decode(record.value or b"") for record in read(topics, DEAD_LETTERS)]
    assert [dead_letter.offset for dead_letter in dead_letters] == [0, 1]
    assert saved(topics, 0).chains["m"][0] == 3


async def test_events_are_where_javas_partitioner_puts_their_key(
    topics: Connection, progress: MonitorProgress
) -> None:
    names = [f"model-{i}" for i in range(12)]
    vitals = LiveVitals(topics)
    for name in names:
        vitals.write(*records(20, name))
    async with monitor(topics):
        await applied_all(progress)
    found = {(record.key, record.partition) for record in read(topics, DRIFT)}
    java = Producer(topics.producer())  # librdkafka's murmur2_random is Java's
    for name in names:
        java.produce(topics.topic(MONITOR_STATE), b"x", key=name.encode())
    java.flush()
    expected = {(r.key, r.partition) for r in read(topics, MONITOR_STATE) if r.value == b"x"}
    assert len({key for key, _ in found}) > 6
    assert found <= expected


async def test_an_idle_partition_gets_ticks_that_are_applied_as_records(
    topics: Connection, progress: MonitorProgress
) -> None:
    LiveVitals(topics).write(*records(1))
    async with monitor(topics, MonitorSettings(idle_tick_s=1.0, progress_s=0.1, session_s=6.0)):
        await until(lambda: len(read(topics, VITALS)) >= 5, "ticks on both partitions")
        await applied_all(progress)
    ticks = [record for record in read(topics, VITALS) if record.value == TickControl().encode()]
    assert {record.partition for record in ticks} == {0, 1}
    assert saved(topics, 1).ticks >= 1
    times = [record.append_ms for record in ticks if record.partition == 1]
    assert all(later - earlier >= 900 for earlier, later in pairwise(times))


async def test_a_large_state_is_cut_into_chunks_and_comes_back_whole(
    topics: Connection, progress: MonitorProgress
) -> None:
    async with monitor(topics, make_core=LargeCore, restore_core=LargeCore.restore):
        LiveVitals(topics).write(*records(8))
        await applied_all(progress)
    chunks = read(topics, MONITOR_STATE)
    assert len(chunks) >= 3
    assert max(len(record.value or b"") for record in chunks) < 1_000_000
    core = LargeCore.restore(find_resume_point(topics, 0).snapshot.data)
    assert core.chains == replayed(topics)[0][0].chains


async def test_a_snapshot_of_another_format_means_replaying_vitals_from_its_beginning(
    topics: Connection, progress: MonitorProgress
) -> None:
    LiveVitals(topics).write(*records(40))
    async with monitor(topics):
        await applied_all(progress)
    before = {record.value for record in read(topics, DRIFT)}
    async with monitor(topics, make_core=NewFormatCore, restore_core=NewFormatCore.restore):
        await until(lambda: len(read(topics, DRIFT)) >= 2 * len(before), "the events again")
    assert before
    assert {record.value for record in read(topics, DRIFT)} == before


async def test_what_retention_removed_unread_is_a_dead_letter_and_the_rest_is_applied(
    topics: Connection, progress: MonitorProgress
) -> None:
    vitals = LiveVitals(topics)
    vitals.write(*records(5))  # offsets 0–4, marker 5
    async with monitor(topics):
        await applied_all(progress)
    vitals.write(*records(5, start=5))  # 6–10, marker 11
    vitals.write(*records(5, start=10))  # 12–16
    cut(topics, 12)
    async with monitor(topics):
        await applied_all(progress)
    (dead_letter,) = [DeadLetter.decode(record.value or b"") for record in read(topics, DEAD_LETTERS)]
    assert dead_letter.offset == 5
    assert "5 to 11" in dead_letter.reason
    assert saved(topics, 0).chains["m"][0] == 10


async def test_retention_overtaking_a_running_monitor_stops_it_instead_of_skipping(
    topics: Connection, progress: MonitorProgress
) -> None:
    """aiokafka alone would move on to the log's new beginning silently."""
    vitals = LiveVitals(topics)
    vitals.write(*records(3))
    async with monitor(topics):  # without a snapshot nobody knows what was read
        await applied_all(progress)
    async with monitor(topics, shell_type=GatedShell) as crashed:
        for _ in range(4):  # 50 MB: more than all buffers before the gate hold
            pads = (base64.b64encode(os.urandom(100_000)).decode() for _ in range(100))
            vitals.write(*(json.dumps({"model": "m", "pad": pad}).encode() for pad in pads))
        await asyncio.wait_for(GatedShell.reached.wait(), 60)
        cut(topics, 400)
        GatedShell.gate.set()
        await asyncio.wait_for(crashed.wait(), 60)
    async with monitor(topics):
        await until(lambda: len(read(topics, DEAD_LETTERS)) == 1, "the loss is reported")


def test_sigterm_ends_the_monitor_within_five_seconds_with_a_last_snapshot(
    topics: Connection, tmp_path: Path
) -> None:
    LiveVitals(topics).write(*records(30))
    worker = Worker(topics, "monitor-0", tmp_path)
    worker.wait_applying()
    assert stopped(worker.process) < 5.0
    state = saved(topics, 0)
    with contextlib.closing(MonitorProgress(topics)) as reading:
        assert state.applied_offset + 1 <= reading.applied()[0]


def test_missing_topics_are_named_before_anything_starts(connection: Connection) -> None:
    with pytest.raises(TopicError, match=f"{connection.prefix}vitals.*topics apply"):
        check_topics(connection)


class GatedShell(MonitorShell):
    """A shell that takes no record until the gate opens."""

    reached = asyncio.Event()
    gate = asyncio.Event()

    async def on_message(self, message: LinkedMessage) -> None:
        self.reached.set()
        await self.gate.wait()
        await super().on_message(message)


class LargeCore(ChainCore):
    """A core whose snapshot has 2.5 MB that do not compress."""

    ballast = os.urandom(2_500_000)

    def snapshot(self) -> bytes:
        return super().snapshot() + b"\n" + self.ballast

    @classmethod
    def restore(cls, data: bytes) -> LargeCore:
        state, _, ballast = data.partition(b"\n")
        assert ballast == cls.ballast
        return super().restore(state)


class NewFormatCore(ChainCore):
    """A later driftloop that no longer reads the old snapshots."""

    def snapshot(self) -> bytes:
        return super().snapshot().replace(b'"format":1', b'"format":2')

    @classmethod
    def restore(cls, data: bytes) -> NewFormatCore:
        if b'"format":1' in data:
            ChainCore.restore(b'{"format":1.5}')
        return super().restore(data.replace(b'"format":2', b'"format":1'))
