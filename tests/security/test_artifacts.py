"""Nothing that is written on a topic or into the store's folder makes anybody read or write outside of it."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import orjson
import pytest
from driftloop.models.registry import artifacts as module
from driftloop.models.registry.artifacts import ArtifactStore, MissingArtifact
from driftloop.models.registry.signing import load_or_create_keypair
from driftloop.schemas.errors import ArtifactError, DecodeError, SettingsError
from driftloop.schemas.serving import Manifest, ModelUpdate
from driftloop.streams.join.recovery.checkpoints import CheckpointStore
from driftloop.streams.serve.hot.swap import HotSwap
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.models.worlds import manifest, update_to

SECRET = b"the contents of a file that is nobody's artifact"
DIGEST = hashlib.sha256(SECRET).hexdigest()
SOMEWHERE_ELSE = [
    "../" * 10 + "etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data",
    "s3://other-bucket/x", "simplecache::https://evil.example/x", "a" * 64 + "/../../x", "..", "", "\0",
    "a" * 63 + "\n",
]  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "secret"
    file.parent.mkdir()
    file.write_bytes(SECRET)
    return file


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    made = ArtifactStore(str(tmp_path / "store"))
    made.put_artifact("m", b"an artifact")
    return made


@pytest.mark.parametrize("where", SOMEWHERE_ELSE)
def test_no_field_of_an_event_can_name_a_place(where: str, store: ArtifactStore, tmp_path: Path) -> None:
    """Digests and model names are all that leads to a file, and neither can be a path or a URL."""
    with pytest.raises(DecodeError):
        Manifest.decode(manifest(artifact_sha256=where).encode())
    with pytest.raises(DecodeError):
        Manifest.decode(manifest(model=where).encode())
    update = update_to(load_or_create_keypair(tmp_path), 1, (1, "a" * 64)).model_dump()
    update["plan"]["champion"]["manifest_sha256"] = where
    with pytest.raises(DecodeError):
        ModelUpdate.decode(orjson.dumps(update))
    for ask in (store.get_artifact, store.get_manifest):  # and were one to come so far:
        with pytest.raises(ArtifactError, match="is not a sha256"):
            ask("m", where)
        with pytest.raises(ArtifactError, match="is not a model name"):
            ask(where, "a" * 64)


def test_a_url_in_an_unknown_field_of_a_signed_manifest_is_carried_and_never_opened() -> None:
    read = Manifest.decode(orjson.dumps(manifest().model_dump() | {"artifact_uri": "file:///etc/passwd"}))
    assert read.model_extra == {"artifact_uri": "file:///etc/passwd"}


def test_a_link_in_the_store_is_not_followed(store: ArtifactStore, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "store" / "m" / "artifacts" / DIGEST).symlink_to(outside)
    with pytest.raises(ArtifactError, match="leads out of the store") as caught:
        store.get_artifact("m", DIGEST)  # its digest would be right
    assert not isinstance(caught.value, MissingArtifact)


@pytest.mark.parametrize("part", ["model", "kind"])
def test_a_folder_that_is_a_link_is_not_followed(
    store: ArtifactStore, outside: Path, tmp_path: Path, part: str
) -> None:
    elsewhere = tmp_path / "elsewhere" / "artifacts"
    elsewhere.mkdir(parents=True)
    (elsewhere / DIGEST).write_bytes(SECRET)
    if part == "model":
        (tmp_path / "store" / "linked").symlink_to(elsewhere.parent)
    else:
        (tmp_path / "store" / "linked").mkdir()
        (tmp_path / "store" / "linked" / "artifacts").symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="leads out of the store"):
        store.get_artifact("linked", DIGEST)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(ArtifactError, match="leads out of the store"):
        store.put_artifact("linked", b"written by the trainer")
    assert sorted(elsewhere.rglob("*")) == before


def test_the_stores_own_folder_may_be_reached_through_a_link(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "mounted").symlink_to(tmp_path / "store")
    mounted = ArtifactStore(str(tmp_path / "mounted"))
    assert mounted.get_artifact("m", mounted.put_artifact("m", b"x")) == b"x"


def test_a_link_planted_where_an_artifact_is_to_be_written_is_replaced_not_followed(
    store: ArtifactStore, outside: Path, tmp_path: Path
) -> None:
    data = b"written by the trainer"
    place = tmp_path / "store" / "m" / "artifacts" / hashlib.sha256(data).hexdigest()
    place.symlink_to(outside)
    assert store.get_artifact("m", store.put_artifact("m", data)) == data
    assert outside.read_bytes() == SECRET
    assert not place.is_symlink()


def test_a_pipe_in_the_store_does_not_hang_a_server(store: ArtifactStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store" / "m" / "artifacts" / DIGEST)
    reported: list[str] = []

    def read() -> None:
        try:
            store.get_artifact("m", DIGEST)
        except ArtifactError as error:
            reported.append(str(error))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(60)
    assert not reading.is_alive()
    assert "no plain file" in reported[0]


def test_a_folder_in_place_of_an_artifact_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "store" / "m" / "artifacts" / DIGEST).mkdir()
    with pytest.raises((ArtifactError, IsADirectoryError)):
        store.get_artifact("m", DIGEST)


@pytest.mark.parametrize("url", ["{path}", "memory://bounded"])
def test_reading_stops_at_the_limit_and_takes_no_more_memory_than_that(url: str, tmp_path: Path) -> None:
    store = ArtifactStore(url.format(path=tmp_path / "store"))
    huge = bytes(64 * 1024 * 1024)
    digest = store.put_artifact("m", huge)
    del huge
    limit = 4 * 1024 * 1024
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=f"more than the {limit} bytes"):
        store.get_artifact("m", digest, limit)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * limit
    MemoryFileSystem.store.clear()


def test_nothing_is_loaded_whose_digest_is_wrong_though_everything_is_signed(tmp_path: Path) -> None:
    """Digest before parsing: the loader never sees bytes that the signed manifest does not name."""
    signer = load_or_create_keypair(tmp_path / "keys")
    store = ArtifactStore(str(tmp_path / "store"))
    good = store.put_artifact("m", b"what the trainer stored")
    sha256 = store.put_manifest(signer.sign(manifest(artifact_sha256=good, artifact_bytes=23)))
    (tmp_path / "store" / "m" / "artifacts" / good).write_bytes(b"what a thief put in there")
    swap = HotSwap("m")
    applied = swap.apply(update_to(signer, 1, (1, sha256)), store=store, verifier=signer.verifier())
    assert applied.status == "refused"
    assert "was altered: its bytes do not have that digest" in applied.reason


# --- the store's own secrets ------------------------------------------------------------------------------


class Leaky(MemoryFileSystem):
    """A file system that shows its whole URL when it fails, as those over HTTP do."""

    protocol = "leaky"
    cachable = False

    def _open(self, path: str, *_: Any, **__: Any) -> IO[bytes]:
        raise RuntimeError(f"403, url='leaky://me:s3cret-pass@host/{path}?token=t0ken-value'")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return cast("str", super()._strip_protocol(path.replace("leaky://", "memory://")))


def test_the_errors_of_a_file_system_never_show_the_urls_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("leaky", Leaky, clobber=True)
    store = ArtifactStore("leaky://me:s3cret-pass@host/artifacts?token=t0ken-value")
    with pytest.raises(OSError, match="403") as caught:
        store.get_artifact("m", DIGEST)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "s3cret-pass" not in repr(caught.value)
    assert "t0ken-value" not in repr(caught.value)


@pytest.mark.parametrize("opened", [ArtifactStore, lambda url: CheckpointStore(url, "cluster", "topic")])
def test_a_store_that_cannot_be_opened_is_reported_without_its_secrets(
    opened: Callable[[str], object],
) -> None:
    with pytest.raises(SettingsError, match="cannot be opened") as caught:
        opened("nosuchkind://me:s3cret-pass@host/x?token=t0ken-value")
    assert "s3cret-pass" not in str(caught.value) + str(caught.value.__cause__)
    assert "t0ken-value" not in str(caught.value)
    assert "nosuchkind" in str(caught.value)


def test_percent_encoded_secrets_are_found_as_both() -> None:
    secrets = module.secrets_of("ftp://me:p%40ss-word@host/x")
    assert {"p%40ss-word", "p@ss-word"} <= set(secrets)


class Ill(MemoryFileSystem):
    """A file system whose client has exceptions of its own."""

    protocol = "ill"
    cachable = False

    def ls(self, path: str, *_: Any, **__: Any) -> Any:
        raise RuntimeError("503 slow down")

    pipe_file = _open = ls


def test_whatever_a_file_system_raises_is_an_os_error_to_its_caller() -> None:
    fsspec.register_implementation("ill", Ill, clobber=True)
    store = ArtifactStore("ill://bucket/artifacts")
    for ask in (
        lambda: store.get_artifact("m", DIGEST),
        lambda: store.put_artifact("m", b"x"),
        lambda: store.list_manifests("m"),
    ):
        with pytest.raises(OSError, match="503 slow down"):
            ask()
