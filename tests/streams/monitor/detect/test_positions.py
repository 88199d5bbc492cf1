"""Positions: an index in an error stream leads back to the right places in the log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from driftloop.schemas.vitals import Counts
from driftloop.streams.monitor.detect.positions import Positions
from driftloop.streams.monitor.observations import Observation
from driftloop.streams.monitor.state import decode_state, encode_state
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Origin:
    """Where one outcome of the stream is in the log: all that the oracle knows."""

    partition: int
    seq: int
    append_ms: int
    ts: int


def seen(partition: int, seqs: list[int], append_ms: int, ts: tuple[int, int]) -> Observation:
    return Observation(
        model="m",
        version=1,
        role="champion",
        partition=partition,
        append_min_ms=append_ms,
        append_max_ms=append_ms,
        counts=Counts(),
        errors=np.zeros(len(seqs)),
        seqs=np.array(seqs, dtype=np.int64),
        ts_min=ts[0],
        ts_max=ts[1],
    )


def feed(messages: list[tuple[int, int, int]], *, gap: int = 0) -> tuple[Positions, list[Origin]]:
    """Messages (partition, outcomes, time step); one event-time millisecond per outcome, in order."""
    positions, stream, next_seq, now = Positions(), list[Origin](), dict[int, int](), 1_000
    for partition, count, step in messages:
        now += step
        first = next_seq.get(partition, 0)
        seqs = [first + i * (1 + gap) for i in range(count)]
        next_seq[partition] = first + count * (1 + gap)
        start = len(stream)
        positions.update(seen(partition, seqs, now, (start, start + count)), start)
        stream += [Origin(partition, seq, now, start + i) for i, seq in enumerate(seqs)]
    return positions, stream


@given(
    messages=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 9)), max_size=60),
    share=st.floats(0, 1),
    snapshot=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_each_partition_is_cut_at_its_first_outcome_after_the_change(
    messages: list[tuple[int, int, int]], share: float, snapshot: bool
) -> None:
    positions, stream = feed(messages)
    if snapshot:
        positions = decode_state(encode_state(positions), Positions)
    index = round(share * len(stream))
    change = positions.change_at(index)
    if not stream:
        assert change is None
        return
    assert change is not None
    assert set(change.partitions) == {str(partition) for partition, _, _ in messages}
    for name, position in change.partitions.items():
        own = [outcome for outcome in stream if outcome.partition == int(name)]
        after = [outcome for outcome in stream[index:] if outcome.partition == int(name)]
        if after:
            assert position.seq == after[0].seq
            assert position.append_ms <= after[0].append_ms
        else:  # the next one to come, at a time before it
            assert position.seq == (own[-1].seq + 1 if own else 0)
            assert position.append_ms <= 1_000 + sum(step for _, _, step in messages)
    if index < len(stream):
        assert change.ts == stream[index].ts


def test_gaps_between_seqs_are_kept_to_some_tens_of_outcomes() -> None:
    positions, stream = feed([(0, 500, 1)] * 10, gap=3)
    for index in (0, 100, 499, 500, 3_210, 4_999):
        change = positions.change_at(index)
        assert change is not None
        seq = change.partitions["0"].seq
        assert stream[index].seq - 4 * 64 <= seq <= stream[index].seq


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 4, 12])
def test_old_positions_lose_detail_in_proportion_to_their_age_and_memory_is_bounded(partitions: int) -> None:
    source = np.random.default_rng(partitions)
    messages = [(int(source.integers(partitions)), int(source.integers(1, 4)), 1) for _ in range(40_000)]
    positions, stream = feed(messages)
    assert sum(len(spans) for spans in positions.spans.values()) < 2_500
    for age in (1, 10, 100, 1_000, 10_000, 70_000):
        index = len(stream) - age
        change = positions.change_at(index)
        assert change is not None
        for name, position in change.partitions.items():
            following = [outcome.seq for outcome in stream[index:] if outcome.partition == int(name)]
            expected = (
                following[0]
                if following
                else max(outcome.seq for outcome in stream if outcome.partition == int(name)) + 1
            )
            assert abs(position.seq - expected) * partitions <= max(3, 0.05 * age)
        assert abs(change.ts - stream[index].ts) <= max(3, 0.05 * age)


def test_an_index_from_before_the_beginning_is_the_beginning() -> None:
    positions, _ = feed([(0, 5, 1), (1, 5, 1)])
    change = positions.change_at(-100)
    assert change is not None
    assert {name: position.seq for name, position in change.partitions.items()} == {"0": 0, "1": 0}
