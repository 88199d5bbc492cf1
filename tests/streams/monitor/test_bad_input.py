"""What the monitor's core cannot use is a dead letter and changes nothing."""

from __future__ import annotations

import base64
import hashlib

import msgspec
import numpy as np
import orjson
import pytest
from driftloop.schemas.control import SpecControl
from driftloop.schemas.errors import StateError
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.monitor.core import VitalsCore
from driftloop.streams.monitor.faust.app import MAX_RECORD_BYTES
from driftloop.streams.monitor.state import FORMAT, encode_state
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.monitor.odd_records import GOOD, ODD
from tests.support.monitor.output import dead_letters, drifts, live
from tests.support.monitor.records import MODEL, START_MS, MonitorLog, bits, entry, vitals


@pytest.mark.parametrize("schedule", ["61 * * * *", "0 0 31 2 *", "R R * * *", "a b c d e", "*/0 * * * *"])
def test_an_impossible_schedule_is_a_dead_letter(schedule: str) -> None:
    log = MonitorLog()
    spec = ModelSpec().model_dump(mode="json")
    spec["triggers"]["schedule"] = schedule  # as somebody might write it past `driftloop apply`
    digest = hashlib.sha256(orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)).hexdigest()
    log.append(SpecControl(model=MODEL, digest=digest, spec=spec, ts=START_MS).encode())
    (dead_letter,) = dead_letters(log.emitted)
    assert "schedule" in dead_letter.reason


def test_a_record_too_large_for_its_dead_letter_is_cut_and_says_so() -> None:
    log = MonitorLog()
    log.append(b"x" * 4_000_000)
    (event,) = log.emitted
    (letter,) = dead_letters(log.emitted)
    assert len(event.value) < MAX_RECORD_BYTES
    assert letter.cut
    assert "value cut" in letter.reason


def timeless(core: VitalsCore) -> bytes:
    """A core's models without their time, which goes on with bad records too."""
    copy = VitalsCore.restore(core.snapshot())
    for state in copy.models.values():
        state.now_ms = 0
    return encode_state(VitalsCore(0, models=copy.models))


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_what_cannot_be_used_is_a_dead_letter_and_changes_nothing(value: bytes) -> None:
    log = live()
    log.stream(bits(0.2, 200, 1))
    before = timeless(log.core)
    emitted = log.append(value)
    (dead_letter,) = dead_letters(emitted)
    assert len(emitted) == 1
    assert base64.b64decode(dead_letter.value_b64 or "") == value
    assert dead_letter.offset == len(log.records) - 1
    assert dead_letter.append_ms == log.now_ms
    assert dead_letter.stage == "monitor"
    assert dead_letter.reason
    assert timeless(log.core) == before
    log.stream(bits(0.2, 2_000, 1))
    assert drifts(log.stream(bits(0.6, 800, 2)))


def test_errors_that_turn_from_bits_to_numbers_are_refused_whole() -> None:
    log = live()
    log.stream(bits(0.2, 100, 1))
    other = entry(bits(0.2, 100, 1), model="other")
    (dead_letter,) = dead_letters(log.append(vitals(other, entry(np.ones(10)))))
    assert "no longer" in dead_letter.reason
    assert len(log.core.models) == 1


def test_a_message_whose_errors_of_one_version_are_bits_and_numbers_is_refused() -> None:
    log = MonitorLog()
    (dead_letter,) = dead_letters(log.append(vitals(entry(bits(0.2, 10, 1)), entry(np.full(10, 0.5)))))
    assert "bits and numbers" in dead_letter.reason
    assert log.core.models == {}


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_can_break_the_core(value: bytes) -> None:
    core = VitalsCore(0)
    for offset, each in enumerate((value, b'{"vitals":' + value, b'{"control":"' + value)):
        core.apply(each, offset=offset, append_time_ms=START_MS)
        assert core.applied_offset == offset


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_no_damage_to_good_vitals_can_break_the_core(at: int, bytes_: bytes) -> None:
    core = VitalsCore(0)
    core.apply(GOOD[:at] + bytes_ + GOOD[at + len(bytes_) :], offset=0, append_time_ms=START_MS)
    core.apply(GOOD, offset=1, append_time_ms=START_MS)
    assert core.applied_offset == 1


OLDER = b'{"format":1,"partition":0,"clock":"append","applied":7,"append_ms":1,"models":[]}'
NEWER = msgspec.msgpack.encode((FORMAT + 1, VitalsCore(0)))
OTHER = msgspec.msgpack.encode((FORMAT, ["0", "append", -1, 0, {}]))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", OLDER, NEWER, OTHER])
def test_what_is_not_a_snapshot_of_this_format_is_refused(data: bytes) -> None:
    with pytest.raises(StateError):
        VitalsCore.restore(data)
