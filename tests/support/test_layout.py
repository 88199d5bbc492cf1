"""The layout of the tests: tests import helpers, never each other, and every helper is in one place."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
# Code that is no test stands only here; all but the first are programs or packages of their own.
HELPERS = ("support", "golden", "soak", "outage", "late", "simulation", "stateful/oracles")
MODULES = sorted(TESTS.rglob("*.py"))


def is_test(name: str) -> bool:
    return name.startswith("test_") or name == "conftest"


def imported(source: str) -> list[str]:
    """Every module, and every name of a module, that the source imports; relative ones begin with a dot."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tests.infra.test_api", ["tests.infra.test_api"]),
        ("def f():\n    from tests.infra import test_api", ["tests.infra.test_api"]),
        ("from ..support import waiting", ["..support.waiting"]),
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str, found: list[str]) -> None:
    assert imported(source) == found


def test_no_test_is_imported_and_imports_are_absolute() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imported(path.read_text("utf-8"))
        if name.startswith(".") or (name.startswith("tests.") and any(map(is_test, name.split("."))))
    ]
    assert wrong == []


def test_every_helper_is_in_support() -> None:
    elsewhere = [
        str(place)
        for path in MODULES
        if not is_test(path.stem) and path.stem != "__init__"
        if not (place := path.relative_to(TESTS)).as_posix().startswith(HELPERS)
    ]
    assert elsewhere == []


def test_no_folder_is_too_wide() -> None:
    folders: Counter[Path] = Counter(path.parent for path in MODULES)
    assert {str(folder): count for folder, count in folders.items() if count > 17} == {}
