"""The shell between cores and Kafka, without Kafka: whatever is dropped, repeated or cut short on the way,
states and events are those of a replay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field

import orjson
import pytest
from driftloop.schemas.errors import StateError
from driftloop.schemas.topics import DEAD_LETTERS, DRIFT, MONITOR_STATE, TRIGGERS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.core import Emitted
from driftloop.streams.monitor.partition import LinkedMessage
from driftloop.streams.monitor.shell import MonitorSettings, MonitorShell
from driftloop.streams.monitor.snapshots import ResumePoint, newest_snapshot
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.monitor.chain_core import ChainCore

pytestmark = pytest.mark.anyio

PLACE = TP("t.vitals", 0)
OFTEN = MonitorSettings(snapshot_records=3, snapshot_min_s=0.0, snapshot_max_s=1e9)
CONNECTION = Connection("nowhere:1", "t.")


class PowerCut(Exception):
    """The process dies here."""


@dataclass
class ShellLog:
    """One vitals partition with gaps, and whatever the shell has written."""

    records: list[tuple[int, bytes]]
    sent: list[tuple[str, bytes | None, bytes, int | None]] = field(default_factory=list)
    cut_after: int = 10**9  # sends until the power cut

    def find(self, _connection: Connection, _partition: int) -> ResumePoint:
        snapshots = [value for topic, _, value, _ in self.sent if topic == "t.monitor-state"]
        return ResumePoint.decide(newest_snapshot(snapshots), 0, self.records[-1][0] + 1)

    def events(self) -> list[tuple[str, bytes | None, bytes]]:
        """What was emitted, repeats dropped by id."""
        seen: dict[tuple[str, str], bytes] = {}
        events: list[tuple[str, bytes | None, bytes]] = []
        for topic, key, value, _ in self.sent:
            if topic == "t.monitor-state":
                continue
            first = seen.setdefault((topic, orjson.loads(value)["id"]), value)
            assert first == value, "an id came back with other bytes"
            if first is value:
                events.append((topic, key, value))
        return events


@dataclass
class Reader:
    """Delivers records as a consumer would, and is what the shell seeks and sends with."""

    log: ShellLog
    position: int = 0
    last_read: int = -1

    async def send(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None
    ) -> Awaitable[object]:
        self.log.cut_after -= 1
        if self.log.cut_after < 0:
            raise PowerCut
        self.log.sent.append((topic, key, value, partition))
        acknowledged = asyncio.get_running_loop().create_future()
        acknowledged.set_result(None)
        return acknowledged

    async def seek(self, tp: TP, offset: int) -> None:
        assert tp == PLACE
        self.position, self.last_read = offset, offset - 1

    def next(self) -> LinkedMessage | None:
        for offset, value in self.log.records:
            if offset >= self.position:
                linked = message(offset, value, self.last_read)
                self.position, self.last_read = offset + 1, offset
                return linked
        return None


def message(offset: int, value: bytes, previous: int) -> LinkedMessage:
    made = LinkedMessage(PLACE.topic, PLACE.partition, offset, 1000.0 + offset, 1, None, None, value, None)
    made.previous = previous
    return made


def some_log(chance: random.Random) -> ShellLog:
    offset, records = chance.randint(0, 3), []
    for n in range(chance.randint(5, 40)):
        model = chance.choice("abc")
        records.append(
            (offset, b"bad" if chance.random() < 0.05 else b'{"model":"%s","n":%d}' % (model.encode(), n))
        )
        offset += 1 if chance.random() < 0.7 else chance.randint(2, 5)
    return ShellLog(records)


def replay(log: ShellLog) -> tuple[ChainCore, list[tuple[str, bytes | None, bytes]]]:
    core = ChainCore(0)
    events: list[tuple[str, bytes | None, bytes]] = []
    for offset, value in log.records:
        for event in core.apply(value, offset=offset, append_time_ms=(1000 + offset) * 1000):
            events.append((f"t.{event.topic.name}", event.key or None, event.value))
    return core, events


def connected(
    reader: Reader, settings: MonitorSettings = OFTEN, core: type[ChainCore] = ChainCore
) -> MonitorShell:
    shell = MonitorShell(CONNECTION, core, core.restore, settings, find=reader.log.find)
    shell.client = reader
    return shell


def saved(log: ShellLog) -> dict[str, tuple[int, str]]:
    snapshot = log.find(CONNECTION, 0).snapshot
    return {} if snapshot is None else ChainCore.restore(snapshot.data).chains


async def live(log: ShellLog, chance: random.Random, *, calm: bool) -> None:
    """One process: from its start to the log's end, or to a power cut."""
    reader = Reader(log)
    shell = connected(reader)

    async def assign() -> None:
        positions = await shell.resume_at(frozenset({PLACE}))
        await reader.seek(PLACE, positions[PLACE])

    await assign()
    held: list[LinkedMessage] = []
    while True:
        fate = 1.0 if calm else chance.random()
        if fate < 0.08:
            await shell.release(frozenset({PLACE}))
            await assign()
        linked = reader.next()
        if linked is None:
            if shell.applied()[PLACE] >= log.records[-1][0]:
                break
            await assign()  # what was dropped last has nothing after it to show the hole: Faust seeks back
            continue
        held.append(linked)
        if fate < 0.2:
            continue  # dropped between the fetch and the agent
        if fate < 0.3:
            await shell.on_message(chance.choice(held))  # an old one again, or one from before a rebalance
        await shell.on_message(linked)
    await shell.release_all()


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_dropped_repeated_and_cut_short_records_leave_the_replays_state_and_events(
    chance: random.Random,
) -> None:
    log = some_log(chance)
    for _ in range(chance.randint(0, 6)):
        log.cut_after = chance.randint(0, 12)
        try:
            asyncio.run(live(log, chance, calm=False))
        except PowerCut:
            continue
    log.cut_after = 10**9
    asyncio.run(live(log, chance, calm=True))
    core, events = replay(log)
    assert log.events() == events
    assert saved(log) == core.chains


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_two_owners_at_once_write_the_same_events_and_leave_a_true_state(seed: int) -> None:
    """A worker that has lost the partition but not noticed goes on for a while beside its successor."""
    log = some_log(random.Random(seed))

    async def both() -> None:
        await asyncio.gather(*(live(log, random.Random(seed + n), calm=n == 0) for n in range(2)))

    asyncio.run(both())
    core, events = replay(log)
    assert log.events() == events
    assert saved(log) == core.chains


async def test_each_hole_is_read_again_once_however_many_records_wait_behind_it() -> None:
    seeks: list[int] = []

    class Counting(Reader):
        async def seek(self, tp: TP, offset: int) -> None:
            seeks.append(offset)
            await super().seek(tp, offset)

    reader = Counting(ShellLog([(n, b'{"model":"m"}') for n in range(10)]))
    shell = connected(reader)
    await shell.resume_at(frozenset({PLACE}))
    for _ in range(2):  # a hole, then another without a rebalance in between
        reader.next()  # dropped
        for linked in [reader.next() for _ in range(3)]:
            await shell.on_message(linked)
        await shell.on_message(reader.next())
    assert seeks == [0, 1]


@dataclass
class SlowClient(Reader):
    """Acknowledges nothing until the test does."""

    acks: list[asyncio.Future[None]] = field(default_factory=list)

    async def send(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None
    ) -> Awaitable[object]:
        await super().send(topic, key, value, partition)
        self.acks.append(asyncio.get_running_loop().create_future())
        return self.acks[-1]

    async def has_sent(self, *topics: str) -> bool:
        for _ in range(30_000):
            if [topic for topic, *_ in self.log.sent] == list(topics):
                return True
            await asyncio.sleep(0.002)
        return False


async def slow(settings: MonitorSettings) -> tuple[MonitorShell, SlowClient]:
    client = SlowClient(ShellLog([(n, b"bad") for n in range(3)]))  # each is a dead letter
    shell = connected(client, settings)
    await shell.resume_at(frozenset({PLACE}))
    return shell, client


EAGER = MonitorSettings(snapshot_records=1, snapshot_min_s=0.0)


async def test_a_snapshot_is_written_only_after_the_events_before_it_are_acknowledged() -> None:
    shell, client = await slow(EAGER)
    await shell.on_message(message(0, b"bad", -1))
    await asyncio.sleep(0.05)
    await shell.keep_time()
    assert await client.has_sent("t.dead-letters")
    assert shell.applied() == {PLACE: -1}
    client.acks[0].set_result(None)
    assert await client.has_sent("t.dead-letters", "t.monitor-state")
    assert shell.applied() == {PLACE: 0}
    client.acks[1].set_result(None)
    await shell.release_all()


async def test_records_are_applied_while_events_are_under_way_and_progress_waits_for_the_oldest() -> None:
    shell, client = await slow(MonitorSettings())
    for offset in range(3):
        await shell.on_message(message(offset, b"bad", offset - 1))
    assert len(client.acks) == 3
    client.acks[1].set_result(None)
    assert shell.applied() == {PLACE: -1}
    client.acks[0].set_result(None)
    assert shell.applied() == {PLACE: 1}


@pytest.mark.parametrize("found_by", ["a record", "time"])
async def test_an_event_that_could_not_be_delivered_ends_the_process_and_is_in_no_snapshot(
    found_by: str,
) -> None:
    shell, client = await slow(EAGER)
    await shell.on_message(message(0, b"bad", -1))
    client.acks[0].set_exception(PowerCut())
    with pytest.raises(PowerCut):
        await (shell.on_message(message(1, b"bad", 0)) if found_by == "a record" else shell.keep_time())
    await asyncio.sleep(0.05)
    assert [topic for topic, *_ in client.log.sent] == ["t.dead-letters"]


async def test_a_snapshot_that_could_not_be_written_ends_the_process() -> None:
    shell, client = await slow(EAGER)
    await shell.on_message(message(0, b"bad", -1))
    client.acks[0].set_result(None)
    assert await client.has_sent("t.dead-letters", "t.monitor-state")
    client.acks[1].set_exception(PowerCut())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(PowerCut):
        await shell.keep_time()


async def test_a_core_that_failed_is_never_saved() -> None:
    class HalfDone(ChainCore):
        def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
            if offset == 2:
                self.chains["half"] = (1, "done")
                raise ArithmeticError("in the middle of a change")
            return super().apply(value, offset=offset, append_time_ms=append_time_ms)

    reader = Reader(ShellLog([(n, b'{"model":"m"}') for n in range(4)]))
    shell = connected(reader, core=HalfDone)
    await shell.resume_at(frozenset({PLACE}))
    for _ in range(2):
        await shell.on_message(reader.next())
    failing = asyncio.create_task(shell.on_message(reader.next()))
    releasing = asyncio.create_task(shell.release_all())
    with pytest.raises(ArithmeticError):
        await failing
    await releasing
    assert "half" not in saved(reader.log)


async def test_a_core_that_does_not_advance_is_an_error_not_an_endless_loop() -> None:
    class Stuck(ChainCore):
        def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
            return []

    shell = connected(Reader(ShellLog([(0, b"{}")])), core=Stuck)
    await shell.resume_at(frozenset({PLACE}))
    with pytest.raises(StateError, match="is at -1 after offset 0"):
        await shell.on_message(message(0, b"{}", -1))


async def test_keyless_events_go_to_the_first_partition_and_keyed_ones_where_the_key_says() -> None:
    log = ShellLog([(0, b"bad")] + [(n, b'{"model":"m","n":%d}' % n) for n in range(1, 300)])
    await live(log, random.Random(1), calm=True)
    assert {(topic, partition) for topic, _, _, partition in log.sent} == {
        (CONNECTION.topic(DEAD_LETTERS), 0),
        (CONNECTION.topic(DRIFT), None),
        (CONNECTION.topic(TRIGGERS), None),
        (CONNECTION.topic(MONITOR_STATE), 0),
    }
