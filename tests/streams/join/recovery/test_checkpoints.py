"""Checkpoints: whole or not there, never believed without proof, and no more of them than needed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from driftloop.schemas.errors import StateError
from driftloop.streams.join.recovery.checkpoints import (
    FORMAT,
    Checkpoint,
    CheckpointCancelled,
    CheckpointError,
    CheckpointStore,
    Digests,
    Published,
)
from driftloop.streams.join.recovery.search import usable_checkpoints
from driftloop.streams.join.state.position import Offsets, Position
from driftloop.streams.join.state.store import RocksStore, StateOrigin
from rocksdict import Cache

ORIGIN = StateOrigin("cluster", "predictions-id", "labels-id", 3, 4)
BEGINNING = Offsets(0, 0)


def at(predictions: int, labels: int = 0) -> Position:
    return Position(predictions, labels, predictions_ms=1_000 + predictions, labels_ms=1_000)


def open_store(folder: Path) -> RocksStore:
    return RocksStore(folder, ORIGIN, Cache(8 << 20), write_buffer_mb=1)


@dataclasses.dataclass
class Desk:
    """A joiner's store, and the checkpoints made of it."""

    folder: Path
    checkpoints: CheckpointStore
    known: Digests = dataclasses.field(default_factory=Digests)
    made: int = 0

    def __post_init__(self) -> None:
        self.store = open_store(self.folder / "state")
        self.cancel = threading.Event()

    def publish(self, position: Position, origin: StateOrigin = ORIGIN) -> Published:
        """Writes a key per offset, then makes a checkpoint."""
        self.store.write({b"g%d" % position.predictions: os.urandom(1000)}, [], [])
        self.made += 1
        folder = self.folder / f"links-{self.made}"
        self.store.checkpoint(folder)
        return self.checkpoints.publish(
            folder, origin, position, self.known, self.cancel, written_ms=self.made
        )

    def usable(self, target: Position, begins: Offsets = BEGINNING) -> Iterator[Checkpoint]:
        return usable_checkpoints(
            self.checkpoints, ORIGIN, self.folder / "incoming", self.cancel,
            at_least=0, begins=begins, target=target,
        )  # fmt: skip

    def found(self, target: Position, begins: Offsets = BEGINNING) -> list[int]:
        """Where the checkpoints stand that can be used, in the order in which they would be."""
        return [checkpoint.stands_at.predictions for checkpoint in self.usable(target, begins)]

    def files(self) -> set[str]:
        (folder,) = (self.folder / "artifacts").glob("_join/cluster/driftloop.predictions/00003/files")
        return {path.name for path in folder.iterdir()}

    def manifests(self) -> list[Path]:
        return sorted((self.folder / "artifacts").glob("_join/*/*/00003/*.json"))


@pytest.fixture(params=["file", "memory"])
def any_desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    url = str(tmp_path / "artifacts") if request.param == "file" else f"memory://{tmp_path.name}"
    desk = Desk(tmp_path, CheckpointStore(url, "cluster", "driftloop.predictions"))
    yield desk
    desk.store.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, CheckpointStore(str(tmp_path / "artifacts"), "cluster", "driftloop.predictions"))
    yield desk
    desk.store.close()


def test_a_checkpoint_holds_the_state_and_only_new_tables_are_uploaded(any_desk: Desk) -> None:
    first = any_desk.publish(at(1))
    second = any_desk.publish(at(2))
    any_desk.store.write({b"g3": b"later"}, [], [])
    assert first.uploaded == first.checkpoint.size
    tables = {file.name for file in first.checkpoint.files if file.name.endswith(".sst")}
    assert tables < {file.name for file in second.checkpoint.files}
    assert second.uploaded < second.checkpoint.size
    assert next(any_desk.usable(at(2))) == second.checkpoint
    copy = open_store(any_desk.folder / "incoming")
    assert [value is not None for value in copy.get_many([b"g1", b"g2", b"g3"])] == [True, True, False]
    copy.close()


def test_damaged_foreign_and_too_new_ones_are_skipped_loudly_and_the_next_one_is_used(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    folder = desk.folder / "artifacts/_join/cluster/driftloop.predictions/00003"
    desk.publish(at(10))
    desk.publish(at(20), dataclasses.replace(ORIGIN, predictions="created again"))
    torn = desk.publish(at(30)).checkpoint
    desk.publish(at(40))
    desk.publish(at(50))
    table = max((f.name, f.sha256) for f in torn.files if f.name.endswith(".sst"))[1]  # its newest
    data = (folder / "files" / table).read_bytes()
    (folder / "files" / table).write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    altered = next(name for name in desk.manifests() if "1040-" in name.name)
    altered.write_bytes(altered.read_bytes().replace(b'"partition":3', b'"partition":2'))
    assert desk.found(target=at(45)) == [10]
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(logged) == 4
    for reason, line in zip(
        ("beyond the committed", "altered", "altered", "other topics"), logged, strict=True
    ):
        assert reason in line


def test_a_checkpoint_from_before_the_logs_beginning_or_of_another_format_is_not_used(desk: Desk) -> None:
    desk.publish(at(10, labels=5))
    assert desk.found(target=at(20, labels=9), begins=Offsets(0, 6)) == []
    assert desk.found(target=at(20, labels=9), begins=Offsets(10, 5)) == [10]
    (name,) = desk.manifests()
    manifest = orjson.loads(name.read_bytes()) | {"format": FORMAT + 1}
    data = orjson.dumps(manifest)
    name.unlink()
    (name.parent / f"000000000001010-{hashlib.sha256(data).hexdigest()}.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="format"):
        desk.checkpoints.read(3, desk.manifests()[0].name)


def test_old_ones_go_and_take_what_only_they_needed_with_them(desk: Desk) -> None:
    for predictions in (1, 2, 3):
        desk.publish(at(predictions))
    desk.publish(at(4), dataclasses.replace(ORIGIN, labels="created again"))
    kept = [desk.checkpoints.read(3, name.name) for name in desk.manifests()[1:3]]
    young = desk.files()
    assert desk.checkpoints.prune(ORIGIN, keep=2) == 2
    assert [name.name[:15] for name in desk.manifests()] == ["000000000001002", "000000000001003"]
    assert desk.files() == young, "an upload under way may still be about to name them"
    for path in desk.folder.glob("artifacts/**/files/*"):
        os.utime(path, (0, 0))
    desk.checkpoints.prune(ORIGIN, keep=2)
    assert desk.files() == {file.sha256 for one in kept for file in one.files} < young
    assert desk.found(target=at(9)) == [3, 2]


def test_an_upload_that_was_called_off_is_no_checkpoint(desk: Desk) -> None:
    desk.cancel.set()
    with pytest.raises(CheckpointCancelled):
        desk.publish(at(1))
    assert desk.checkpoints.names(3) == []
    assert not list(desk.folder.glob("artifacts/**/.writing-*"))


def test_names_from_a_manifest_lead_nowhere_else(desk: Desk) -> None:
    desk.publish(at(1))
    (name,) = desk.manifests()
    manifest = orjson.loads(name.read_bytes())
    manifest["files"][0]["name"] = "../../stolen"
    data = orjson.dumps(manifest)
    evil = f"000000000001001-{hashlib.sha256(data).hexdigest()}.json"
    (name.parent / evil).write_bytes(data)
    with pytest.raises(CheckpointError, match="name"):
        desk.checkpoints.read(3, evil)


def test_a_damaged_state_is_begun_again_and_a_locked_one_is_left_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path / "state")
    store.write({b"ga": b"1"}, [], [])
    with pytest.raises(StateError, match="cannot be opened"):
        open_store(tmp_path / "state")
    assert list(store.get_many([b"ga"])) == [b"1"]
    store.close()
    (manifest,) = (tmp_path / "state").glob("MANIFEST-*")
    manifest.write_bytes(b"\x00garbage" * 100)
    reopened = open_store(tmp_path / "state")
    assert reopened.is_empty()
    reopened.close()
