"""Checkpoints of the joiner's state in the artifact store, so that a new host need not replay everything.

Layout: ``<store>/_join/<cluster>/<predictions topic>/<partition>/``, and in it ``files/<sha256>`` and
``<newest append time>-<sha256 of the manifest>.json``; no model can be called ``_join``. RocksDB's tables
never change, so only new ones are uploaded. The manifest names every file with its digest and is written
last, whole or not at all: a checkpoint exists once its manifest does.

On failure: an upload that ends half-way leaves files that no manifest names; ``prune`` removes them once no
upload can be about to name them any more.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ....models.registry.artifacts import open_store, secrets_of
from ....models.registry.whole_file import whole_file
from ....schemas.base import Sha256
from ....schemas.errors import Error
from ....schemas.reasons.validation import first_reason
from ..state.position import Position
from ..state.store import StateOrigin

T = TypeVar("T")

log = logging.getLogger(__name__)

FORMAT = 1
_ORPHAN_S = 3600.0  # an upload takes less
_CHUNK = 1 << 20
_MAX_MANIFEST_BYTES = 8 << 20
_MANIFEST = re.compile(r"(\d{15})-([0-9a-f]{64})\.json")

_ORIGIN_FIELDS = {field.name for field in fields(StateOrigin)}

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class CheckpointError(Error):
    """A checkpoint that cannot be used; the message says why."""


class CheckpointCancelled(Exception):
    """The work was cancelled."""


class FileKey(NamedTuple):
    """What identifies one of RocksDB's tables in a folder."""

    name: str
    size: int


Digests = dict[FileKey, str]


class StoredFile(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: FileName
    size: int = Field(ge=0)
    sha256: Sha256


class Checkpoint(BaseModel):
    """A manifest: whose state it is, where it stands, and which files it consists of."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: int
    cluster: str
    predictions: str
    labels: str
    partition: int
    partitions: int
    layout: int
    position: list[int]
    written_ms: int
    files: list[StoredFile]

    @classmethod
    def of(cls, origin: StateOrigin, position: Position, written_ms: int, files: list[StoredFile]) -> Self:
        return cls(
            format=FORMAT, **asdict(origin), position=position.numbers(), written_ms=written_ms, files=files
        )

    @property
    def origin(self) -> StateOrigin:
        return StateOrigin(**self.model_dump(include=_ORIGIN_FIELDS))

    @property
    def stands_at(self) -> Position:
        return Position.of_numbers(self.position)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that was stored. ``uploaded``: bytes that the store did not have yet."""

    checkpoint: Checkpoint
    uploaded: int


class CheckpointStore:
    """The checkpoints of one deployment. One thread at a time may use it for each partition."""

    def __init__(self, url: str, cluster: str, topic: str) -> None:
        """``url``: the artifact store's; ``topic``: the full name of predictions.

        Raises SettingsError when its file system is unknown.
        """
        self._fs, root, self._local = open_store(url)
        self._root = f"{root}/_join/{cluster}/{topic}"
        self.secrets = secrets_of(url)

    def names(self, partition: int) -> list[str]:
        """Return a partition's manifests, newest first. Raises OSError when the store cannot be read."""
        try:
            found = cast("list[str]", self._fs.ls(self._folder(partition), detail=False))
        except FileNotFoundError:
            return []
        names = [path.rstrip("/").rpartition("/")[2] for path in found]
        return sorted((name for name in names if _MANIFEST.fullmatch(name)), reverse=True)

    def read(self, partition: int, name: str) -> Checkpoint:
        """Read a manifest. Raises CheckpointError if it is damaged or of another format, OSError."""
        match = _MANIFEST.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{name!r} is not the name of a checkpoint")
        with self._fs.open(f"{self._folder(partition)}/{name}", "rb") as file:
            data = cast("bytes", file.read(_MAX_MANIFEST_BYTES + 1))
        if hashlib.sha256(data).hexdigest() != match[2]:
            raise CheckpointError("its manifest was altered: its bytes do not have the digest in its name")
        try:
            found = cast("dict[str, object]", orjson.loads(data))
            if found.get("format") != FORMAT:
                raise CheckpointError(f"it has format {found.get('format')}, this version reads {FORMAT}")
            checkpoint = Checkpoint.model_validate(found)
        except (orjson.JSONDecodeError, AttributeError) as error:
            raise CheckpointError(f"its manifest is not an object: {error}") from error
        except ValidationError as error:
            raise CheckpointError(first_reason("its manifest", error)) from error
        try:
            _ = checkpoint.stands_at
        except ValueError as error:
            raise CheckpointError(f"its position has another layout: {error}") from error
        return checkpoint

    def publish(
        self,
        folder: Path,
        origin: StateOrigin,
        position: Position,
        known: Digests,
        cancel: threading.Event,
        *,
        written_ms: int,
    ) -> Published:
        """StateStore a copy of RocksDB. ``known``: digests of its tables, which never change; added to.

        Raises OSError when the store does, CheckpointCancelled once ``cancel`` is set.
        """
        target = self._folder(origin.partition)
        self._fs.makedirs(f"{target}/files", exist_ok=True)
        files: list[StoredFile] = []
        uploaded = 0
        for path in sorted(folder.iterdir()):
            if cancel.is_set():
                raise CheckpointCancelled
            key = FileKey(path.name, path.stat().st_size)
            sha256 = known.get(key) if path.suffix == ".sst" else None
            if sha256 is None:
                with path.open("rb") as file:
                    sha256 = known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(StoredFile(name=key.name, size=key.size, sha256=sha256))
            stored = f"{target}/files/{sha256}"
            if not self._fs.exists(stored):
                self._upload(path, stored, cancel)
                uploaded += key.size
        checkpoint = Checkpoint.of(origin, position, written_ms, files)
        data = orjson.dumps(checkpoint.model_dump())
        name = f"{position.newest_ms:015d}-{hashlib.sha256(data).hexdigest()}.json"
        with self._whole_object(f"{target}/{name}") as file:
            file.write(data)
        return Published(checkpoint, uploaded)

    def fetch(self, checkpoint: Checkpoint, folder: Path, cancel: threading.Event) -> None:
        """Download a checkpoint's files into ``folder``, which is created empty.

        Raises CheckpointError when one is missing or altered, OSError, CheckpointCancelled once ``cancel`` is
        set.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in checkpoint.files:
            stored = f"{self._folder(checkpoint.partition)}/files/{file.sha256}"
            digest, size = hashlib.sha256(), 0
            try:
                with self._fs.open(stored, "rb") as source, (folder / file.name).open("wb") as target:
                    while chunk := cast("bytes", source.read(_CHUNK)):
                        if cancel.is_set():
                            raise CheckpointCancelled
                        size += len(chunk)
                        if size > file.size:
                            break
                        digest.update(chunk)
                        target.write(chunk)
            except FileNotFoundError as error:
                raise CheckpointError(f"its file {file.name} is not in the store") from error
            if size != file.size or digest.hexdigest() != file.sha256:
                raise CheckpointError(f"its file {file.name} was altered: its bytes do not have its digest")

    def prune(self, origin: StateOrigin, keep: int) -> int:
        """Remove all but the newest ``keep`` checkpoints and the files only they needed; return how many.

        A checkpoint of other topics (which were deleted and created again) is of no use and is removed too.
        """
        folder = self._folder(origin.partition)
        kept: list[Checkpoint] = []
        removed = 0
        for name in self.names(origin.partition):
            try:
                checkpoint = self.read(origin.partition, name)
            except CheckpointError as error:
                # Which files it needs is unknown, perhaps a newer version wrote it: nothing is removed.
                log.warning("checkpoint %s: %s; not pruning partition %d", name, error, origin.partition)
                return removed
            if len(kept) < keep and checkpoint.origin == origin:
                kept.append(checkpoint)
            else:
                self._fs.rm_file(f"{folder}/{name}")
                removed += 1
        self._prune_files(folder, {file.sha256 for one in kept for file in one.files})
        return removed

    def _prune_files(self, folder: str, needed: set[str]) -> None:
        found = cast("Iterable[str]", self._fs.ls(f"{folder}/files", detail=False))
        for path in found:
            if path.rpartition("/")[2] not in needed:
                modified = cast("float", self._fs.modified(path).timestamp())
                if time.time() - modified > _ORPHAN_S:
                    self._fs.rm_file(path)

    def _folder(self, partition: int) -> str:
        return f"{self._root}/{partition:05d}"

    def _upload(self, path: Path, stored: str, cancel: threading.Event) -> None:
        with path.open("rb") as source, self._whole_object(stored) as target:
            while chunk := source.read(_CHUNK):
                if cancel.is_set():
                    raise CheckpointCancelled
                target.write(chunk)

    @contextmanager
    def _whole_object(self, path: str) -> Generator[Any]:
        """An object of the store that appears complete, or not at all if the block raises."""
        if self._local:  # a folder would show every byte at once; an object store shows complete objects only
            with whole_file(Path(path), mode=0o666) as file:
                yield file
            return
        target = self._fs.open(path, "wb")
        try:
            yield target
        except BaseException:
            target.discard()
            raise
        target.close()


def in_background(name: str, call: Callable[[], T]) -> Future[T]:
    """Run a call to the store in its own thread; a process that ends does not wait for it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # whatever it is, ``result`` raises it  # noqa: BLE001
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
