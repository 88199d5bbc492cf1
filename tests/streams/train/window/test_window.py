"""The window is a function of the log: the same records give the same rows, however they were polled."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import orjson
from driftloop.schemas.decisions import Change, ChangePosition
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.train.window.window import (
    LAST,
    Clock,
    LabelCount,
    LogPlace,
    NewestRows,
    WaitRequest,
    WindowPlan,
    WindowRows,
    WindowStart,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.support.train.world import outcome

PLAN = WindowPlan("m", None, None, trigger_append_ms=0, max_rows=1000, old_rows=1000)


@dataclass(frozen=True)
class Labelled:
    """A label on the log, as a count sees it."""

    place: LogPlace
    event_ms: int


@st.composite
def logs(draw: st.DrawFn) -> list[list[Labelled]]:
    """Labels of up to three partitions: append times ascend in each, event times do not."""
    partitions: list[list[Labelled]] = []
    for partition in range(draw(st.integers(1, 3))):
        gaps = draw(st.lists(st.integers(0, 5), max_size=25))
        append_ms, labels = 100, []
        for offset, gap in enumerate(gaps):
            append_ms += gap
            event_ms = append_ms + draw(st.integers(-30, 30))
            labels.append(Labelled(LogPlace(append_ms, partition, offset), event_ms))
        partitions.append(labels)
    return partitions


def interleaved(log: list[list[Labelled]], seed: int) -> list[Labelled]:
    """As polling may deliver them: each partition in order, the partitions anyhow."""
    queues = [list(labels) for labels in log]
    at_random, merged = random.Random(seed), []
    while any(queues):
        merged.append(at_random.choice([queue for queue in queues if queue]).pop(0))
    return merged


def counted(labels: list[Labelled], *, needed: int, reach: int, deadline: int, clock: Clock) -> LabelCount:
    plan = replace(PLAN, trigger_append_ms=reach)
    count = LabelCount(WaitRequest("run-1", plan, ModelSpec(), needed, deadline, 50, None), clock)
    for label in labels:
        count.add(label.place, label.event_ms)
    return count


def edge_by_sorting(
    log: list[list[Labelled]], *, needed: int, reach: int, deadline: int, clock: Clock, now: int
) -> LogPlace | None:
    """The rule of the module's docstring, in the order of its words."""
    rows = sorted((label for labels in log for label in labels), key=lambda label: label.place)
    enough = rows[needed - 1].place if len(rows) >= needed else None
    if clock == "append":
        overdue = LogPlace(deadline) if now > deadline else None
    else:
        overdue = next((row.place for row in rows if row.event_ms >= deadline), None)
    first = min((window_end for window_end in (enough, overdue) if window_end is not None), default=None)
    return None if first is None else max(first, LogPlace(reach))


@given(
    log=logs(),
    seeds=st.tuples(st.integers(), st.integers()),
    needed=st.integers(1, 20),
    reach=st.integers(90, 200),
    deadline=st.integers(90, 250),
    clock=st.sampled_from(["append", "event"]),
)
def test_the_edge_does_not_depend_on_the_order_of_polling(
    log: list[list[Labelled]], seeds: tuple[int, int], needed: int, reach: int, deadline: int, clock: Clock
) -> None:
    now = 10_000  # all is read: whatever could come, came
    expected = edge_by_sorting(log, needed=needed, reach=reach, deadline=deadline, clock=clock, now=now)
    cuts = set()
    for seed in seeds:
        count = counted(interleaved(log, seed), needed=needed, reach=reach, deadline=deadline, clock=clock)
        assert count.window_end(now) == expected
        if expected is not None:
            frozen = count.freeze(expected, {})
            cuts.add((frozen.labels, frozen.now_ms))
    if expected is not None:
        rows = [row for labels in log for row in labels if row.place <= expected]
        newest = max((row.event_ms for row in rows), default=0) if clock == "event" else expected.append_ms
        assert cuts == {(len(rows), max(50, newest))}


@given(log=logs(), seed=st.integers(), needed=st.integers(1, 20))
def test_an_edge_only_moves_back_while_more_is_read(
    log: list[list[Labelled]], seed: int, needed: int
) -> None:
    count = counted([], needed=needed, reach=0, deadline=LAST, clock="append")
    last: LogPlace | None = None
    for label in interleaved(log, seed):
        count.add(label.place, label.event_ms)
        window_end = count.window_end(0)
        assert last is None or (window_end is not None and window_end <= last)
        last = window_end


def test_a_deadline_that_came_before_the_labels_is_the_edge_even_if_it_is_noticed_late() -> None:
    labels = [Labelled(LogPlace(100 + i, 0, i), 0) for i in range(10)]
    count = counted(labels[:5], needed=8, reach=0, deadline=104, clock="append")
    assert count.window_end(104) is None
    assert count.window_end(105) == LogPlace(104)
    late = counted(labels, needed=8, reach=0, deadline=104, clock="append")
    assert late.window_end(104) == LogPlace(104)
    assert late.freeze(LogPlace(104), {}).labels == 5


def test_the_first_time_after_an_edge_orders_partitions_of_the_same_millisecond() -> None:
    window_end = LogPlace(100, 1, 7)
    assert [window_end.first_time_after(p) for p in (0, 2)] == [101, 100]
    assert LogPlace(100).first_time_after(5) == 101


# --- rows ---------------------------------------------------------------------------------------------------


def value(number: int, seq: int, *, revision: int = 0, role: str = "champion", label: str = "yes") -> bytes:
    made = outcome("m", number, seq, version=1, flipped=False)
    return made.model_copy(update={"revision": revision, "role": role, "label": label}).encode()


def filled(
    records: list[tuple[LogPlace, bytes]], plan: WindowPlan = PLAN, **starts: WindowStart
) -> WindowRows:
    rows = WindowRows({0: starts.get("p0", WindowStart(0)), 1: starts.get("p1", WindowStart(0))}, plan)
    for place, data in records:
        rows.add(place, data)
    rows.finish()
    return rows


def ids(rows: NewestRows) -> list[str]:
    return [str(orjson.loads(data)["prediction_id"]) for _, data in rows.values()]


def test_rows_past_both_offset_and_seq_are_after_the_change() -> None:
    records = [(LogPlace(i, 0, i), value(i, seq=i)) for i in range(6)]
    rows = filled(records, p0=WindowStart(offset=2, seq=4))
    assert ids(rows.before) == ["m-0", "m-1", "m-2", "m-3"]
    assert ids(rows.after) == ["m-4", "m-5"]


def test_corrections_follow_their_row_and_those_of_other_rows_are_left_out() -> None:
    rows = filled(
        [
            (LogPlace(0, 0, 0), value(0, seq=0)),
            (LogPlace(1, 0, 1), value(1, seq=1)),
            (LogPlace(2, 0, 2), value(0, seq=0, revision=1, label="no")),
            (LogPlace(3, 0, 3), value(9, seq=0, revision=1)),
            (LogPlace(4, 0, 4), value(1, seq=1, role="shadow")),
        ],
        p0=WindowStart(offset=1, seq=1),
    )
    assert [orjson.loads(data)["label"] for _, data in rows.before.values()] == ["yes", "no"]
    assert ids(rows.after) == ["m-1"]


@given(
    order=st.permutations([0, 1, 2] * 5),
    kinds=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=15, max_size=15),
    max_rows=st.integers(0, 14),
)
def test_only_the_newest_rows_are_kept_whatever_the_order_of_partitions(
    order: list[int], kinds: list[tuple[int, bool]], max_rows: int
) -> None:
    """Requests are answered and corrected again and again, at times that partitions share."""

    def kept(order: list[int]) -> NewestRows:
        rows, at = (
            WindowRows(dict.fromkeys(range(3), WindowStart(0)), replace(PLAN, max_rows=max_rows)),
            [0] * 3,
        )
        for p in order:
            number = 3 * at[p] + p
            request, is_row = kinds[number]
            rows.add_cached(p, [(at[p] // 2, at[p], f"m-{p}-{request}", 0, is_row, b"%d" % number)])
            at[p] += 1
        rows.finish()
        return rows.after

    answered = {(n % 3, request) for n, (request, is_row) in enumerate(kinds) if is_row}
    assert len(kept(order)) == min(max_rows, len(answered))
    assert kept(order).values() == kept(sorted(order)).values()


def test_room_for_more_older_rows_than_are_wanted_is_not_taken() -> None:
    plan = WindowPlan("m", None, None, 0, max_rows=100, old_rows=3)
    rows = filled([(LogPlace(i, 0, i), value(i, seq=i)) for i in range(8)], plan, p0=WindowStart(offset=7))
    assert ids(rows.before) == ["m-4", "m-5", "m-6"]


def test_older_rows_get_the_room_that_newer_ones_leave() -> None:
    plan = WindowPlan("m", None, None, 0, max_rows=5, old_rows=4)
    records = [(LogPlace(i, 0, i), value(i, seq=i)) for i in range(10)]
    rows = filled(records, plan, p0=WindowStart(offset=7))
    assert ids(rows.after) == ["m-7", "m-8", "m-9"]
    assert ids(rows.before) == ["m-5", "m-6"]


def test_two_plans_of_the_same_change_are_the_same_question() -> None:
    def plan() -> WindowPlan:
        change = Change(partitions={"0": ChangePosition(seq=1, append_ms=2)}, ts=3)
        return WindowPlan("m", change, {0: 4}, 5, 6, 7)

    assert plan() == plan()
