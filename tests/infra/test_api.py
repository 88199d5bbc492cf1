"""What users import is there, is what it says, and costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import driftloop
from tests.support.paths import ROOT

ERRORS = {name for name in driftloop.__all__ if name.endswith("Error")} | {
    "ClientClosed", "IllegalTransition", "InvalidEvent",
}  # fmt: skip


@pytest.mark.parametrize("name", driftloop.__all__)
def test_every_name_of_the_public_api_can_be_loaded(name: str) -> None:
    assert getattr(driftloop, name) is not None
    assert name in dir(driftloop)


def test_type_checkers_see_the_public_names_where_they_are_loaded_from() -> None:
    tree = ast.parse((ROOT / "driftloop" / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        (alias.name, alias.asname): node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {(name, name): f"driftloop.{home}" for name, home in driftloop._HOME_OF.items()}
    assert set(driftloop.__all__) == {"__version__", *driftloop._HOME_OF}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_whatever_driftloop_raises_is_a_driftloop_error(name: str) -> None:
    assert issubclass(getattr(driftloop, name), driftloop.Error)


def test_a_bad_argument_is_also_a_value_error() -> None:
    assert issubclass(driftloop.InvalidEvent, ValueError)
    assert issubclass(driftloop.FeatureError, ValueError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        driftloop.Cleint  # type: ignore[attr-defined]  # noqa: B018


def imported_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running ``code``."""
    shown = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_importing_driftloop_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "numpy", "confluent_kafka", "onnxruntime", "sklearn", "river", "fastapi", "fsspec"}
    assert not heavy & imported_by("import driftloop")


def test_a_client_needs_no_model_and_no_web_library() -> None:
    heavy = {"onnxruntime", "onnx", "sklearn", "river", "fastapi", "faust", "rocksdict", "scipy"}
    assert not heavy & imported_by("import driftloop; driftloop.Client; driftloop.Prediction")


def test_a_server_of_ones_own_needs_no_training_library() -> None:
    heavy = {"onnx", "skl2onnx", "sklearn", "fastapi", "faust", "rocksdict", "scipy"}
    assert not heavy & imported_by("import driftloop; driftloop.HotModel")


def test_the_readmes_server_is_fifteen_lines() -> None:
    code = (ROOT / "examples" / "own_server.py").read_text()
    body = [
        line for line in code.splitlines()[1:] if line.strip() and not line.strip().startswith(("#", '"""'))
    ]
    assert len(body) <= 15


@pytest.mark.slow
def test_a_client_with_a_folder_keeps_its_events_there_while_kafka_is_away(tmp_path: Path) -> None:
    nowhere = "127.0.0.1:1"
    client = driftloop.Client(nowhere, privacy={}, spill_dir=tmp_path / "spill")
    for number in range(20):
        client.prediction("m", 1, {"x": number}, 1.0)
    client.close(0.2)
    assert client.stats.dropped == 0
    with driftloop.Client(nowhere, privacy={}, spill_dir=tmp_path / "spill") as again:
        assert again.stats.on_disk == 20


def test_one_folder_serves_one_process_at_a_time(tmp_path: Path) -> None:
    client = driftloop.Client("127.0.0.1:1", privacy={}, spill_dir=tmp_path)
    with pytest.raises(driftloop.SettingsError, match="a folder of its own"):
        driftloop.Client("127.0.0.1:1", privacy={}, spill_dir=tmp_path)
    client.close(0)


def test_a_hot_model_with_a_client_is_given_no_second_folder(tmp_path: Path) -> None:
    client = driftloop.Client("127.0.0.1:1", privacy={})
    with pytest.raises(driftloop.SettingsError, match="give it to the client"):
        driftloop.HotModel("m", "127.0.0.1:1", client=client, spill_dir=tmp_path)
    client.close(0)
