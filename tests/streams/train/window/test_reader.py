"""Windows on real Kafka: found by position and append time, final only when nothing earlier can come."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import orjson
import pytest
from confluent_kafka import Producer
from driftloop.infra.settings import Settings
from driftloop.models.registry.artifacts import ArtifactStore
from driftloop.schemas.decisions import Change
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.ranges import Cancelled, LogRanges
from driftloop.streams.train.window.cache import OutcomeCache
from driftloop.streams.train.window.reader import OutcomeReader, RunWindow
from driftloop.streams.train.window.watch import OutcomeWatch
from driftloop.streams.train.window.window import NewestRows, WaitRequest, WindowPlan

from tests.support.train.world import MODEL, World, outcome, quick_spec
from tests.support.waiting import wait_until

FAR = 2**52


@pytest.fixture
def world(settings: Settings, topics: Connection) -> World:
    return World(settings, topics)


@pytest.fixture
def reader(topics: Connection) -> Iterator[OutcomeReader]:
    ranges = LogRanges(topics, name="test", stalled_s=15)
    yield OutcomeReader(LogOffsets(topics), ranges)
    ranges.close()


@pytest.fixture
def watch(topics: Connection, settings: Settings) -> Iterator[OutcomeWatch]:
    store = ArtifactStore(str(settings.state_dir / "artifacts"))
    watching = OutcomeWatch(topics, LogOffsets(topics), store, "append", OutcomeCache(0))
    yield watching
    watching.close()
    watching.check()


def plan(
    change: Change | None = None,
    *,
    reach: int = 0,
    max_rows: int = 10_000,
    old_rows: int = 0,
    **fields: object,
) -> WindowPlan:
    used_ends = fields.get("used_ends")
    return WindowPlan(MODEL, change, used_ends, reach, max_rows, old_rows)  # type: ignore[arg-type]


def request(of: WindowPlan, needed: int, run_id: str = "run-1") -> WaitRequest:
    return WaitRequest(run_id, of, quick_spec(), needed, FAR, 0, None)


def numbers(rows: NewestRows) -> list[int]:
    return sorted(int(orjson.loads(value)["prediction_id"].split("-")[1]) for _, value in rows.values())


def newest(world: World, count: int, *, below: int) -> list[int]:
    """The newest rows with a number below, in the order of the log."""
    records = sorted(world.records(OUTCOMES), key=lambda r: (r.append_ms, r.partition, r.offset))
    written = [int(orjson.loads(r.value or b"")["prediction_id"].split("-")[1]) for r in records]
    return sorted([number for number in written if number < below][-count:])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def read(reader: OutcomeReader, of: WindowPlan) -> RunWindow:
    return reader.window(of, reader.known_ends())


def test_a_change_divides_the_rows_by_seq_and_older_ones_are_the_newest(
    world: World, reader: OutcomeReader
) -> None:
    for _ in range(6):
        world.outcomes(10)
    change = world.here()
    world.outcomes(40, flipped=True)
    window = read(reader, plan(change, old_rows=20))
    assert numbers(window.rows.after) == list(range(60, 100))
    assert numbers(window.rows.before) == newest(world, 20, below=60)


def test_without_a_change_the_newest_rows_before_the_trigger_are_the_window(
    world: World, reader: OutcomeReader
) -> None:
    for _ in range(5):
        world.outcomes(10)
    window = read(reader, plan(reach=now_ms(), max_rows=30, old_rows=30))
    assert numbers(window.rows.after) == newest(world, 30, below=50)
    assert numbers(window.rows.before) == []


def test_rows_that_the_champion_used_are_before_and_the_others_after(
    world: World, reader: OutcomeReader
) -> None:
    world.outcomes(50)
    ends = reader.known_ends()
    world.outcomes(10)
    of = plan(reach=now_ms(), used_ends=ends, old_rows=15)
    window = read(reader, of)
    assert numbers(window.rows.after) == list(range(50, 60))
    assert numbers(window.rows.before) == newest(world, 15, below=50)


def test_other_models_rows_are_passed_over_and_what_is_no_outcome_is_reported(
    world: World, reader: OutcomeReader
) -> None:
    for _ in range(5):
        world.outcomes(10)
        world.outcomes(20, model="worlds")
    broken = b'{"model":"world","seq":'
    world.produce(OUTCOMES, broken, key="x", partition=0)
    world.outcomes(1)
    window = read(reader, plan(reach=now_ms()))
    assert len(window.rows.after) == 51
    assert window.unreadable == 1
    (letter,) = window.dead_letters
    assert letter.event.model_dump()["stage"] == "train"


def test_a_window_reads_the_same_rows_again_whatever_came_since(world: World, reader: OutcomeReader) -> None:
    world.outcomes(40)
    change = world.here()
    world.outcomes(30)
    ends = reader.known_ends()
    of = plan(change, old_rows=10)
    first = reader.window(of, ends)
    corrected = outcome(MODEL, 45, 22, version=0, flipped=True).model_copy(update={"revision": 1})
    world.produce(OUTCOMES, corrected.encode(), key=corrected.prediction_id, partition=45 % 2)
    world.outcomes(30)
    again = reader.window(of, ends)
    assert list(first.rows.after.values()) == list(again.rows.after.values())
    assert list(first.rows.before.values()) == list(again.rows.before.values())


def test_the_window_ends_with_the_row_that_brings_enough_however_late_it_is_sought(
    world: World, watch: OutcomeWatch, reader: OutcomeReader
) -> None:
    world.outcomes(20)
    change = world.here()
    of = plan(change)
    watch.want([request(of, 30)])
    wait_until(
        lambda: (found := watch.progress("run-1")) and found.labels == 0 and found.offsets, what="a count"
    )
    for _ in range(8):  # it polls in between
        world.outcomes(5)
    polled = wait_until(lambda: (found := watch.progress("run-1")) and found.frozen, what="the frozen window")
    world.outcomes(50)
    watch.want([request(of, 30, "run-2")])
    late = wait_until(
        lambda: (found := watch.progress("run-2")) and found.frozen, what="the frozen window of a latecomer"
    )
    assert polled == late
    assert late.labels == 30
    window = reader.window(of, late.ends)
    assert len(window.rows.after) == 30


def test_what_was_known_at_the_trigger_is_in_the_window_even_if_fewer_labels_would_do(
    world: World, watch: OutcomeWatch, reader: OutcomeReader
) -> None:
    change = world.here()
    world.outcomes(50)
    reach = world.newest_append_ms(OUTCOMES)
    wait_until(lambda: now_ms() > reach + 1)
    world.outcomes(20)
    of = plan(change, reach=reach)
    watch.want([request(of, 10)])
    frozen = wait_until(lambda: (found := watch.progress("run-1")) and found.frozen)
    assert frozen.labels == 50
    assert len(reader.window(of, frozen.ends).rows.after) == 50


def test_an_open_transaction_delays_the_window_until_its_earlier_rows_are_seen(
    world: World, watch: OutcomeWatch, topics: Connection, reader: OutcomeReader
) -> None:
    change = world.here()
    producer = Producer(topics.transactional("slow-joiner"))
    producer.init_transactions(10)
    producer.begin_transaction()
    for number in range(1000, 1010):
        made = outcome(MODEL, number, number, version=0, flipped=False)
        producer.produce(topics.topic(OUTCOMES), made.encode(), key=made.prediction_id, partition=0)
    producer.flush(10)  # appended, so earlier than what comes now, and not visible yet
    world.outcomes_on(1, 30)
    watch.want([request(plan(change), 20)])
    wait_until(lambda: (found := watch.progress("run-1")) and found.labels == 30, what="the visible rows")
    found = watch.progress("run-1")
    assert found is not None
    assert found.frozen is None
    producer.commit_transaction(10)
    frozen = wait_until(lambda: (found := watch.progress("run-1")) and found.frozen)
    assert frozen.labels == 20
    inside = numbers(reader.window(plan(change), frozen.ends).rows.after)
    assert [number for number in inside if number >= 1000] == list(range(1000, 1010))


def test_one_reader_serves_runs_that_start_at_different_places(world: World, watch: OutcomeWatch) -> None:
    world.outcomes(30)
    late = world.here()
    world.outcomes(30)
    watch.want([request(plan(late), 1000, "late")])
    wait_until(lambda: (found := watch.progress("late")) and found.labels == 30)
    early = plan(reach=now_ms())
    watch.want([request(plan(late), 1000, "late"), request(early, 1000, "early")])
    wait_until(lambda: (found := watch.progress("early")) and found.labels == 60)
    world.outcomes(10)
    for run_id, labels in (("early", 70), ("late", 40)):
        found = wait_until(
            lambda run_id=run_id, labels=labels: (
                (now := watch.progress(run_id)) and now.labels >= labels and now
            )
        )
        assert found.labels == labels
    ends = world.ends(OUTCOMES)
    final = watch.progress("early")
    assert final is not None
    assert final.offsets == {str(p): end for p, end in ends.items()}


def test_only_usable_labels_are_counted(world: World, watch: OutcomeWatch) -> None:
    change = world.here()
    made = outcome(MODEL, 0, 0, version=1, flipped=False)
    for number, fields in enumerate(
        (
            {"label": "yes"},
            {"label": "maybe"},  # no class of the spec
            {"label": None, "correct": False},  # of two classes it must be the other
            {"label": "no", "role": "shadow"},
            {"label": "no", "revision": 1},
        )
    ):
        one = made.model_copy(update={**fields, "prediction_id": f"{MODEL}-{number}", "seq": number})
        world.produce(OUTCOMES, one.encode(), key=one.prediction_id, partition=0)
    world.flush()
    watch.want([request(plan(change), 2)])
    frozen = wait_until(lambda: (found := watch.progress("run-1")) and found.frozen)
    assert frozen.labels == 2
    assert frozen.ends[0] == 3


@pytest.mark.parametrize("seed", range(3))
def test_a_range_gives_exactly_what_is_committed_in_it(world: World, topics: Connection, seed: int) -> None:
    at_random = random.Random(seed)
    producer = Producer(topics.transactional(f"writer-{seed}"))
    producer.init_transactions(10)
    kept: list[tuple[int, int]] = []
    name = topics.topic(OUTCOMES)
    for number in range(12):
        producer.begin_transaction()
        delivered: list[tuple[int, int]] = []
        for _ in range(at_random.randint(1, 5)):
            producer.produce(
                name,
                str(number),
                partition=at_random.randrange(2),
                on_delivery=lambda _, message, to=delivered: to.append(
                    (message.partition(), message.offset())
                ),
            )
        producer.flush(10)
        if at_random.random() < 0.3:
            producer.abort_transaction(10)
        else:
            producer.commit_transaction(10)
            kept += delivered
    ranges = LogRanges(topics, name="test")
    ends = LogOffsets(topics).ends(OUTCOMES, [0, 1])
    for _ in range(4):
        wanted = {p: range(*sorted(at_random.sample(range(end + 1), 2))) for p, end in ends.items()}
        found = [(m.partition(), m.offset()) for m in ranges.read(OUTCOMES, wanted)]
        assert sorted(found) == sorted((p, o) for p, o in kept if o in wanted[p])
    ranges.close()


def test_reading_stops_when_called_off_and_says_so_when_nothing_comes(
    world: World, topics: Connection
) -> None:
    world.outcomes(4)
    ranges = LogRanges(topics, name="test", stalled_s=0.5)
    with pytest.raises(BrokerError, match="could not be read"):
        list(ranges.read(OUTCOMES, {0: range(99)}))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        list(ranges.read(OUTCOMES, {0: range(99)}, cancel))
    assert len(list(ranges.read(OUTCOMES, {0: range(2), 1: range(1, 2)}))) == 3
    ranges.close()
