"""The key that hashes private features is made once, where one host runs everything, and nowhere else."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from driftloop.infra.hash_key import find_hasher
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import SettingsError
from driftloop.streams.serve.privacy import Hasher


def shown(hasher: Hasher | None) -> object:
    return None if hasher is None else hasher.hash("tail", "N123")


def test_the_environments_key_comes_first(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, hash_key="a key of the deployment")
    assert shown(find_hasher(settings)) == shown(Hasher(b"a key of the deployment"))
    assert "deployment" not in repr(settings)
    assert not (tmp_path / "keys").exists()
    with pytest.raises(SettingsError, match="at least 16"):
        find_hasher(Settings(state_dir=tmp_path, hash_key="short"))


def test_a_made_key_is_secret_and_stays(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert find_hasher(settings) is None
    made = find_hasher(settings, create=True)
    path = tmp_path / "keys" / "hash.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shown(made) == shown(find_hasher(settings)) == shown(find_hasher(settings, create=True))
    assert [one.name for one in path.parent.iterdir()] == ["hash.key"]


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    together = threading.Barrier(8)

    def start(_: int) -> object:
        together.wait()
        return shown(find_hasher(settings, create=True))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(start, range(8)))
    assert len(set(found)) == 1
    assert found[0] is not None


def test_no_key_is_made_in_a_keys_folder_that_was_named(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, keys_dir=tmp_path / "mounted")
    assert find_hasher(settings, create=True) is None
    assert not (tmp_path / "mounted").exists()


def test_a_key_that_cannot_be_read_or_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file where the folder should be")
    with pytest.raises(SettingsError, match=r"hash\.key cannot be (read|made)"):
        find_hasher(Settings(state_dir=tmp_path), create=True)
