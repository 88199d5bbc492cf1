"""The store on disk does what the one in memory does, and forgets what is not its own."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from driftloop.schemas.errors import StateError
from driftloop.streams.join.state.store import RocksStore, StateOrigin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from rocksdict import Cache

from tests.support.full_disk import FullDisk
from tests.support.fuzz import effort
from tests.support.join.machine import JoinerMachine
from tests.support.join.memory_store import MemoryStore

ORIGIN = StateOrigin("cluster", "predictions-id", "labels-id", 0, 4)

keys = st.binary(min_size=1, max_size=3)
pairs = st.dictionaries(keys, st.binary(max_size=5), max_size=4)
writes = st.lists(st.tuples(pairs, st.lists(keys, max_size=3), st.lists(st.tuples(keys, keys), max_size=2)))


def open_store(folder: Path, origin: StateOrigin = ORIGIN) -> RocksStore:
    return RocksStore(folder, origin, Cache(8 << 20), write_buffer_mb=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes, keys, keys)
def test_it_holds_what_a_dict_would(
    store: RocksStore, written: list[tuple[dict[bytes, bytes], list[bytes], list[tuple[bytes, bytes]]]],
    start: bytes, end: bytes,
) -> None:  # fmt: skip
    store.clear()
    model = MemoryStore()
    for puts, deletes, ranges in written:
        ordered = [(min(pair), max(pair)) for pair in ranges]
        inside = {b"g" + key: value for key, value in puts.items()}
        for one in (store, model):
            one.write(inside, [b"g" + key for key in deletes], [(b"g" + a, b"g" + b) for a, b in ordered])
    assert list(store.scan(b"g" + start, b"g" + end)) == list(model.scan(b"g" + start, b"g" + end))
    wanted = [b"g" + start, b"g" + end, b"absent"]
    assert list(store.get_many(wanted)) == list(model.get_many(wanted))
    assert store.is_empty() == model.is_empty()


def test_what_was_written_is_there_after_reopening_and_in_a_checkpoint(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.write({b"ga": b"1"}, [], [])
    store.checkpoint(tmp_path / "copy")
    store.write({b"gb": b"2"}, [], [])
    store.close()
    for name, wanted in (("store", [b"1", b"2"]), ("copy", [b"1", None])):
        reopened = open_store(tmp_path / name)
        assert list(reopened.get_many([b"ga", b"gb"])) == wanted
        reopened.close()


@pytest.mark.parametrize(
    "other", [{"cluster": "another"}, {"predictions": "created again"}, {"partitions": 8}, {"layout": 99}]
)
def test_a_store_of_something_else_is_begun_again(tmp_path: Path, other: dict[str, object]) -> None:
    store = open_store(tmp_path / "store")
    store.write({b"ga": b"1"}, [], [])
    store.close()
    reopened = open_store(tmp_path / "store", dataclasses.replace(ORIGIN, **other))  # type: ignore[arg-type]
    assert reopened.is_empty()
    reopened.close()


def test_a_full_disk_is_one_error_that_names_it_and_every_write_is_whole_or_not_there(
    disk: FullDisk, tmp_path: Path
) -> None:
    folder = tmp_path / "disk" / "store"
    store, tried = open_store(folder), list[int]()

    def write_many() -> None:
        for number in range(100):
            tried.append(number)
            value = secrets.token_bytes(1 << 15)
            store.write({b"ga%d" % number: value, b"gb%d" % number: value}, [], [])

    disk.fill()
    with pytest.raises(StateError) as raised:
        write_many()
    assert str(raised.value).startswith(f"the state in {folder} cannot be written: its disk is full: free")
    with suppress(StateError):  # it may have something to write
        store.close()
    with pytest.raises(StateError, match=f"{folder} cannot be opened: its disk is full"):
        open_store(folder)
    disk.free()
    reopened = open_store(folder)
    for number in tried:
        first, second = reopened.get_many([b"ga%d" % number, b"gb%d" % number])
        assert first == second
        assert number == tried[-1] or first is not None
    reopened.write({b"gc": b"1"}, [], [])
    reopened.close()


@pytest.mark.slow
def test_on_disk_too_every_crash_gives_the_outcomes_of_the_oracle(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    class OnDisk(JoinerMachine):
        def new_store(self) -> RocksStore:
            self.disk = open_store(tmp_path_factory.mktemp("join") / "store")
            return self.disk

        def teardown(self) -> None:
            super().teardown()
            self.disk.close()

    run_state_machine_as_test(OnDisk, settings=effort(runs=60, steps=50))
