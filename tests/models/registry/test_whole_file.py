"""A file is written whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from driftloop.models.registry.whole_file import whole_file


def test_a_file_changes_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"before")
    with whole_file(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["state.json"]


def write_half(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_block_that_raises_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_new_file_does_not_replace_one_that_was_made_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with whole_file(path, replace=False) as file:
        file.write(b"second")
        path.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]


def test_only_the_owner_reads_it_unless_a_mode_is_given(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for name, mode in (("a", 0o600), ("b", 0o666)):
            with whole_file(tmp_path / name, mode=mode):
                pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o600, 0o644]


def test_a_path_may_be_relative_to_an_open_folder(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        for data in (b"one", b"two"):
            with whole_file(Path("name"), dir_fd=folder) as file:
                file.write(data)
    finally:
        os.close(folder)
    assert (tmp_path / "name").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["name"]
