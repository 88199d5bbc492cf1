"""A window from the cache is the window from the log, whichever rows were dropped."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from driftloop.schemas.decisions import Change, ChangePosition
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.topics import Topic
from driftloop.streams.kafka.record import Record
from driftloop.streams.train.window.cache import FollowedOutcome, OutcomeCache, UnreadableOutcome
from driftloop.streams.train.window.prefix import model_prefix, outcome_key
from driftloop.streams.train.window.reader import OutcomeReader, RunWindow
from driftloop.streams.train.window.window import WindowPlan, WindowStart
from hypothesis import example, given, settings
from hypothesis import strategies as st

MODEL, OTHER = "m", "other"
PARTITIONS = (0, 1, 2)


@dataclass
class Message:
    """A message as confluent-kafka gives it, as far as the reader looks."""

    at: tuple[int, int, int]
    data: bytes

    def value(self) -> bytes:
        return self.data

    def key(self) -> bytes:
        return b"k"

    def topic(self) -> str:
        return "outcomes"

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]

    def timestamp(self) -> tuple[int, int]:
        return (0, self.at[2])


@dataclass
class OutcomeLog:
    """Outcomes with gaps where transactions ended; also stands in for what asks the broker."""

    records: dict[int, list[tuple[int, int, bytes]]] = field(
        default_factory=lambda: {p: [] for p in PARTITIONS}
    )
    read_records: int = 0
    begin: dict[int, int] = field(default_factory=dict[int, int])

    def partitions(self, _topic: Topic) -> list[int]:
        return list(PARTITIONS)

    def brokers(self, _topic: Topic) -> int:
        return 1

    def begins(self, _topic: Topic, partitions: list[int]) -> dict[int, int]:
        return {p: self.begin.get(p, 0) for p in partitions}

    def expire(self, partition: int, upto: int) -> None:
        """Retention takes what lies below."""
        self.begin[partition] = upto
        self.records[partition] = [record for record in self.records[partition] if record[0] >= upto]

    def ends(self, _topic: Topic, partitions: list[int]) -> dict[int, int]:
        return {p: self.end(p) for p in partitions}

    def end(self, partition: int) -> int:
        return self.records[partition][-1][0] + 1 if self.records[partition] else 0

    def at(
        self, topic: Topic, times_ms: Mapping[int, int], *, ends: Mapping[int, int] | None = None
    ) -> dict[int, int]:
        ends = ends or self.ends(topic, list(times_ms))
        return {
            p: next((offset for offset, ms, _ in self.records[p] if ms >= time_ms), ends[p])
            for p, time_ms in times_ms.items()
        }

    def read(
        self,
        _topic: Topic,
        ranges: Mapping[int, range],
        _cancel: threading.Event | None = None,
        *,
        prefix: bytes = b"",
    ) -> Iterator[Message]:
        for p, offsets in ranges.items():
            for offset, ms, value in self.records[p]:
                if offset in offsets:
                    self.read_records += 1
                    if value.startswith(prefix):
                        yield Message((p, offset, ms), value)


def world(seed: int, count: int) -> OutcomeLog:
    """Rows of two models, some answered by a second version too, corrections, shadows, and broken bytes."""
    chance, log, now = random.Random(seed), OutcomeLog(), 10_000
    seqs, ids = dict.fromkeys(PARTITIONS, 0), {p: ["first"] for p in PARTITIONS}
    kinds = {"row": 75, "twice": 5, "again": 10, "shadow": 4, "broken": 1, "other": 20}
    for number in range(count):
        p = chance.choice(PARTITIONS)
        now += chance.choice((0, 0, 0, 1, 7))
        (kind,) = chance.choices(list(kinds), list(kinds.values()))
        row = chance.choice(ids[p]) if kind == "again" else f"{p}-{number}"
        for answer in range(1 + (kind == "twice")):
            role = '"role":"shadow",' if kind == "shadow" else ""
            is_row = kind in ("row", "twice")
            text = f'"prediction_id":"{row}",{role}"version":{answer},"revision":{int(kind == "again")},'
            value = model_prefix(OTHER if kind == "other" else MODEL)
            value += f'{text}"seq":{seqs[p] if is_row else 0}}}'.encode()
            offset = log.end(p) + chance.choice((0, 0, 0, 1))
            log.records[p].append((offset, now, value[:-30] if kind == "broken" else value))
            if is_row:
                seqs[p] += 1
                ids[p] = [*ids[p][-20:], row]
    return log


def follow(cache: OutcomeCache, log: OutcomeLog, at: dict[int, int], upto: Mapping[int, int]) -> None:
    """Adds what lies between, a batch for each partition."""
    found: list[FollowedOutcome] = []
    seen_ms: dict[int, int] = {}
    for p, end in upto.items():
        for offset, ms, value in log.records[p]:
            if at[p] <= offset < end:
                seen_ms[p] = ms
                prefix = value[: value.find(b",") + 1]
                try:
                    key = outcome_key(value, len(prefix))
                except DecodeError as error:
                    key = UnreadableOutcome(Record("outcomes", p, offset, ms, b"k", value), error.reason)
                found.append(FollowedOutcome(prefix, p, offset, ms, key, value))
        at[p] = max(at[p], end)
    cache.add(found, seen_ms, at)


def content(window: RunWindow) -> tuple[object, ...]:
    return (
        list(window.rows.before.values()),
        list(window.rows.after.values()),
        sorted(letter.event.encode() for letter in window.dead_letters),
        window.unreadable,
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keep=st.integers(5, 400),
    kilobytes=st.sampled_from([20, 100, 10_000]),
    max_rows=st.integers(5, 200),
    old_rows=st.integers(0, 200),
    begin=st.floats(0, 1),
    change=st.floats(0, 1),
    frozen=st.floats(0, 1),
    has_change=st.booleans(),
    expired=st.floats(0, 1),
)
@example(9376, 7, 20, 5, 0, 0.0, 0.0, 0.0, False, 0.0)
@example(0, 54, 20, 29, 1, 0.0, 0.65625, 1.0, True, 0.0)
def test_windows_from_the_cache_are_those_of_the_log(
    seed: int,
    keep: int,
    kilobytes: int,
    max_rows: int,
    old_rows: int,
    begin: float,
    change: float,
    frozen: float,
    has_change: bool,
    expired: float,
) -> None:
    log = world(seed, 300)
    at = {p: int(log.end(p) * begin) for p in PARTITIONS}
    cache = OutcomeCache(kilobytes * 1024)
    cache.keep({MODEL: keep})
    cache.begin(at)
    for share in (0.3, 0.6, 0.8, 1.0):
        follow(cache, log, at, {p: int(log.end(p) * share) for p in PARTITIONS})
    places = {p: int(log.end(p) * change) for p in PARTITIONS}
    known = {
        str(p): ChangePosition(
            seq=sum(b'"revision":0' in value for offset, _, value in log.records[p] if offset < places[p]),
            append_ms=next((ms for offset, ms, _ in log.records[p] if offset >= places[p]), 10_000),
        )
        for p in PARTITIONS
    }
    last_ms = max(ms for of in log.records.values() for _, ms, _ in of)
    plan = WindowPlan(
        MODEL, Change(partitions=known, ts=0) if has_change else None, None, last_ms, max_rows, old_rows
    )
    ends = log.ends(None, list(PARTITIONS))  # type: ignore[arg-type]
    if has_change:  # without one the window reaches to the trigger, which is the last record here
        ends = {p: places[p] + int((log.end(p) - places[p]) * frozen) for p in PARTITIONS}
    for p, records in log.records.items():
        log.expire(p, records[int((len(records) - 1) * expired)][0])
    cold = OutcomeReader(log, log)  # type: ignore[arg-type]
    snapshot = OutcomeReader(log, log, cache=cache)  # type: ignore[arg-type]
    assert content(snapshot.window(plan, ends)) == content(cold.window(plan, ends))


def filled(keep: int, max_bytes: int, *, count: int = 2_000) -> tuple[OutcomeCache, OutcomeLog]:
    log, at = world(3, count), dict.fromkeys(PARTITIONS, 0)
    cache = OutcomeCache(max_bytes)
    cache.keep({MODEL: keep, OTHER: keep})
    cache.begin(at)
    for tenth in range(1, 11):
        follow(cache, log, at, {p: log.end(p) * tenth // 10 for p in PARTITIONS})
    return cache, log


def test_a_cached_window_is_not_read_from_the_log() -> None:
    cache, log = filled(600, 2**20)
    ends = log.ends(None, list(PARTITIONS))  # type: ignore[arg-type]
    starts = {p: WindowStart(end - 20) for p, end in ends.items()}
    plan = WindowPlan(MODEL, None, {p: 0 for p in PARTITIONS}, 2**40, 500, 300)
    window = OutcomeReader(log, log, cache=cache).window(plan, ends, starts)  # type: ignore[arg-type]
    assert len(window.rows.before) > 280  # second answers are no rows of their own
    assert log.read_records == 0


@pytest.mark.parametrize("max_bytes", [4_096, 65_536, 2**20])
def test_memory_is_bounded_and_the_newest_stay(max_bytes: int) -> None:
    cache, _ = filled(10_000, max_bytes)
    kept = [one for model in (MODEL, OTHER) for s in cache.of(model).segments.values() for one in s.rows]
    assert sum(len(one[5]) for one in kept) <= max_bytes
    for segment in cache.of(MODEL).segments.values():
        offsets = [one[1] for one in segment.rows]
        assert offsets == sorted(offsets)
        assert all(segment.low <= offset < segment.high for offset in offsets)
    if max_bytes == 2**20:
        assert len(kept) > 1_500


def test_a_cache_of_no_bytes_caches_nothing() -> None:
    cache, _ = filled(100, 0)
    assert not cache.followed
    assert cache.of(MODEL).segments == {}


@pytest.mark.parametrize("lost", [True, False])
def test_outcomes_that_retention_took_from_after_the_change_are_announced(lost: bool) -> None:
    log = world(5, 400)
    places = {p: log.records[p][20] for p in PARTITIONS}
    known = {
        str(p): ChangePosition(
            seq=sum(b'"revision":0' in value for _, _, value in log.records[p][:20]), append_ms=place[1]
        )
        for p, place in places.items()
    }
    ends = log.ends(None, list(PARTITIONS))  # type: ignore[arg-type]
    log.expire(1, log.records[1][60 if lost else 5][0])
    plan = WindowPlan(MODEL, Change(partitions=known, ts=0), None, 2**40, 500, 0)
    window = OutcomeReader(log, log).window(plan, ends)  # type: ignore[arg-type]
    reported = [one.event for one in window.dead_letters if "no longer in the log" in str(one.event)]
    assert [letter.partition for letter in reported] == ([1] if lost else [])  # type: ignore[attr-defined]
