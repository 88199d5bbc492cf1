"""What the store gives back is what was put there, or nothing; and nothing leads out of its root."""

from __future__ import annotations

import hashlib
import threading
import uuid
from pathlib import Path

import pytest
from driftloop.models.registry.artifacts import MAX_MANIFEST_BYTES, ArtifactStore, MissingArtifact
from driftloop.schemas.errors import ArtifactError, SettingsError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models.worlds import manifest

DATA = b"not really a model, but bytes all the same"


@pytest.fixture(params=["{folder}", "file://{folder}", "memory://{unique}"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(request.param.format(folder=tmp_path, unique=uuid.uuid4().hex))


def test_an_artifact_comes_back_by_its_digest(store: ArtifactStore) -> None:
    sha256 = store.put_artifact("m", DATA)
    assert sha256 == hashlib.sha256(DATA).hexdigest()
    assert store.put_artifact("m", DATA) == sha256
    assert store.get_artifact("m", sha256) == DATA
    with pytest.raises(MissingArtifact, match=r"artifact .* of other is not in the store"):
        store.get_artifact("other", sha256)


def test_manifests_come_back_in_order_of_versions(store: ArtifactStore) -> None:
    assert store.list_manifests("m") == []
    digests = [store.put_manifest(manifest(v, refresh=r)) for v, r in ((3, 0), (1, 0), (2, 1), (2, 0))]
    assert [(m.version, m.refresh) for m in store.list_manifests("m")] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    assert store.get_manifest("m", digests[0]) == manifest(3)
    assert digests[0] == hashlib.sha256(manifest(3).encode()).hexdigest()


def test_too_many_bytes_are_refused_before_they_are_read_whole(store: ArtifactStore) -> None:
    sha256 = store.put_artifact("m", DATA)
    assert store.get_artifact("m", sha256, max_bytes=len(DATA)) == DATA
    with pytest.raises(ArtifactError, match="more than the 10 bytes allowed"):
        store.get_artifact("m", sha256, max_bytes=10)


@settings(max_examples=60)
@given(place=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_any_altered_byte_is_refused(
    place: int, flip: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "altered"
    store = ArtifactStore(str(root))
    sha256 = store.put_artifact("m", DATA)
    path = root / "m" / "artifacts" / sha256
    altered = bytearray(DATA)
    altered[place] ^= flip
    path.write_bytes(altered[:place] if cut else altered)
    with pytest.raises(ArtifactError, match="altered"):
        store.get_artifact("m", sha256)
    store.put_artifact("m", DATA)  # storing it again repairs it
    assert store.get_artifact("m", sha256) == DATA


@pytest.mark.parametrize(
    "model", ["../m", "a/b", "", ".hidden", "m\n", "m\0", "/etc", "a" * 101, "..", "m/../../x"]
)
def test_a_name_that_could_lead_elsewhere_is_no_model_name(model: str, store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="not a model name"):
        store.put_artifact(model, DATA)
    with pytest.raises(ArtifactError, match="not a model name"):
        store.get_artifact(model, "a" * 64)
    with pytest.raises(ArtifactError, match="not a model name"):
        store.list_manifests(model)


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", ""])
def test_a_digest_that_could_lead_elsewhere_is_no_digest(sha256: str, store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="not a sha256"):
        store.get_artifact("m", sha256)


def put_in(folder: Path, data: bytes) -> str:
    """Put bytes where a store has the manifests of m, by their right digest."""
    path = folder / "m" / "manifests" / f"{hashlib.sha256(data).hexdigest()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.stem


def test_a_manifest_of_another_model_is_refused_though_its_digest_is_right(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    sha256 = store.put_manifest(manifest(model="other"))
    assert put_in(tmp_path, manifest(model="other").encode()) == sha256
    with pytest.raises(ArtifactError, match="is of model other, not m"):
        store.get_manifest("m", sha256)


def test_bytes_that_are_no_manifest_are_named(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(ArtifactError, match="Manifest: model: Field required"):
        store.get_manifest("m", put_in(tmp_path, b"{}"))
    with pytest.raises(ArtifactError, match="more than"):
        store.get_manifest("m", put_in(tmp_path, b" " * (MAX_MANIFEST_BYTES + 1)))


def test_nobody_ever_reads_a_half_written_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    data = bytes(3_000_000)
    sha256 = store.put_artifact("m", data)
    writing = threading.Event()
    problems: list[Exception] = []

    def write() -> None:
        for _ in range(30):
            store.put_artifact("m", data)
        writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not writing.is_set():
        try:
            store.get_artifact("m", sha256)
        except ArtifactError as error:
            problems.append(error)
    writer.join()
    assert problems == []
    assert [path.name for path in (tmp_path / "m" / "artifacts").iterdir()] == [sha256]


def test_an_unknown_kind_of_store_is_a_setting_to_correct() -> None:
    with pytest.raises(SettingsError, match="nowhere://x"):
        ArtifactStore("nowhere://x")
