"""Snapshots on monitor-state: torn, stale and foreign ones never decide where the monitor resumes."""

from __future__ import annotations

import random

import pytest
from driftloop.streams.monitor.snapshots import ResumePoint, Snapshot, encode_snapshot, newest_snapshot
from hypothesis import given
from hypothesis import strategies as st


def chunks(snapshot: Snapshot, chunk_bytes: int = 100) -> list[bytes]:
    return [value for _, value in encode_snapshot(snapshot, partition=3, chunk_bytes=chunk_bytes)]


def state(seed: int, size: int = 1000) -> bytes:
    return random.Random(seed).randbytes(size)


@given(st.binary(max_size=5000), st.integers(0, 2**40), st.integers(0, 1), st.integers(1, 900))
def test_a_snapshot_survives_being_cut_into_chunks(data: bytes, offset: int, slot: int, size: int) -> None:
    snapshot = Snapshot(offset, data, slot)
    assert newest_snapshot(chunks(snapshot, size)) == snapshot


def test_no_chunk_is_larger_than_a_record_may_be() -> None:
    records = encode_snapshot(Snapshot(7, state(1, 3_000_000)), partition=0)
    assert len(records) == 4
    assert max(len(key) + len(value) for key, value in records) < 1_000_000


def test_slots_take_different_keys_so_that_compaction_keeps_the_other() -> None:
    keys = [
        {key for key, _ in encode_snapshot(Snapshot(1, state(1), slot), partition=3, chunk_bytes=100)}
        for slot in (0, 1)
    ]
    assert not keys[0] & keys[1]


def test_a_torn_snapshot_gives_way_to_the_last_whole_one() -> None:
    older, newer = Snapshot(10, state(1)), Snapshot(20, state(2), 1)
    assert newest_snapshot(chunks(older) + chunks(newer)[:-1]) == older


def test_a_stale_snapshot_written_last_does_not_win() -> None:
    stale, newer = Snapshot(10, state(1)), Snapshot(20, state(2), 1)
    assert newest_snapshot(chunks(newer) + chunks(stale)) == newer


@given(st.randoms(use_true_random=False))
def test_interleaved_writers_leave_a_whole_snapshot_or_none(chance: random.Random) -> None:
    """What compaction may leave of two writers' chunks under the same keys: per key, either's."""
    one, two = Snapshot(10, state(1)), Snapshot(20, state(2))
    kept = [chance.choice(pair) for pair in zip(chunks(one), chunks(two), strict=True)]
    assert newest_snapshot(kept) in (one, two, None)


def test_a_damaged_snapshot_is_skipped() -> None:
    good, bad = Snapshot(10, state(1)), chunks(Snapshot(20, state(2), 1))
    bad[0] = bad[0][:-1] + bytes([bad[0][-1] ^ 1])
    assert newest_snapshot([*chunks(good), *bad, b"", b"no snapshot", b'{"snapshot":1}\n']) == good


def test_nothing_on_the_topic_means_from_the_beginning() -> None:
    assert newest_snapshot([]) is None
    assert ResumePoint.decide(None, 5, 9) == ResumePoint(None, 5, 5)


@pytest.mark.parametrize(("applied", "start"), [(8, 9), (4, 5), (5, 6)])
def test_reading_resumes_right_after_the_snapshot(applied: int, start: int) -> None:
    snapshot = Snapshot(applied, b"")
    assert ResumePoint.decide(snapshot, 5, 9) == ResumePoint(snapshot, start, 5)


def test_what_retention_removed_unread_is_reported_and_the_state_kept() -> None:
    snapshot = Snapshot(3, b"")
    assert ResumePoint.decide(snapshot, 7, 9) == ResumePoint(snapshot, 7, 7, lost=range(4, 7))


def test_a_snapshot_beyond_the_logs_end_is_of_another_log() -> None:
    assert ResumePoint.decide(Snapshot(9, b""), 0, 9) == ResumePoint(None, 0, 0)
