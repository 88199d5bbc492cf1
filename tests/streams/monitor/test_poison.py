"""Poison on real vitals: the monitor goes on, and every bad record is a dead letter with its bytes."""

from __future__ import annotations

import base64

import pytest
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.topics import DEAD_LETTERS, DRIFT, VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.core import Emitted, VitalsCore

from tests.support.monitor.live import LiveVitals, applied_all, monitor, read
from tests.support.monitor.odd_records import ODD
from tests.support.monitor.output import live
from tests.support.monitor.progress import MonitorProgress
from tests.support.monitor.records import bits

pytestmark = pytest.mark.anyio


def poisoned() -> list[bytes]:
    """A model that goes live and drifts, with every kind of bad record in between."""
    log = live()
    odd = iter(ODD.values())
    for seed in range(6):
        log.stream(bits(0.2, 400, seed))
        for _ in range(len(ODD) // 6 + 1):
            log.append(next(odd, b"\xff"))
    log.stream(bits(0.6, 800, 99))
    return [value for value, _ in log.records]


def replayed(connection: Connection) -> list[Emitted]:
    core = VitalsCore(0)
    return [
        event
        for record in read(connection, VITALS)
        for event in core.apply(record.value or b"", offset=record.offset, append_time_ms=record.append_ms)
    ]


async def test_every_kind_of_bad_vitals_is_a_dead_letter_and_drift_is_still_found(
    topics: Connection, progress: MonitorProgress
) -> None:
    LiveVitals(topics).write(*poisoned())
    async with monitor(topics, make_core=VitalsCore, restore_core=VitalsCore.restore) as crashed:
        await applied_all(progress)
        assert not crashed.is_set()
    written = {record.offset: record.value or b"" for record in read(topics, VITALS)}
    dead_letters = [DeadLetter.decode(record.value or b"") for record in read(topics, DEAD_LETTERS)]
    assert len(dead_letters) >= len(ODD)
    for dead_letter in dead_letters:
        assert (dead_letter.stage, dead_letter.topic, dead_letter.partition) == ("monitor", VITALS.name, 0)
        assert base64.b64decode(dead_letter.value_b64 or "") == written[dead_letter.offset]
        assert dead_letter.reason
    assert {dead_letter.offset for dead_letter in dead_letters} == {
        offset for offset, value in written.items() if value in {*ODD.values(), b"\xff"}
    }
    expected = replayed(topics)
    for topic in (DEAD_LETTERS, DRIFT):
        found = [record.value for record in read(topics, topic)]
        assert found == [event.value for event in expected if event.topic is topic]
    assert read(topics, DRIFT)
