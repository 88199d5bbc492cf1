"""Pages that say where something is say it of code that exists: ``streams/join/core.py:Joiner.process``."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.paths import ROOT

PAGES = ("tests/README.md", "DESIGN.md")
NAMED = re.compile(r"`([\w./-]+\.py):(\w+(?:\.\w+)*)`")
TARGET = re.compile(r"`make ([a-z-]+)")


def names_in(source: str) -> set[str]:
    """Functions, classes and variables; methods and attributes as ``Class.name`` and as ``name``."""
    found: set[str] = set()

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(prefix + name)
                case ast.ClassDef(name=name, body=inside):
                    found.add(prefix + name)
                    look(inside, f"{prefix}{name}.")
                case ast.Assign(targets=[*targets]):
                    found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(prefix + name)
                case _:
                    pass

    look(ast.parse(source).body, "")
    return found | {name.rpartition(".")[2] for name in found}


def test_names_are_found_wherever_they_are_defined() -> None:
    source = "A = 1\nB: int = 2\nclass C:\n  x: int\n  async def m(self): ...\ndef f():\n  def inner(): ..."
    assert names_in(source) == {"A", "B", "C", "C.x", "x", "C.m", "m", "f"}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_that_a_page_names_is_there(page: str) -> None:
    missing: list[str] = []
    for path, name in NAMED.findall((ROOT / page).read_text("utf-8")):
        file = ROOT / path
        if not file.is_file() or name not in names_in(file.read_text("utf-8")):
            missing.append(f"{path}:{name}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_the_targets_that_a_page_names_are_in_the_makefile(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {*re.findall(r"^([\w%-]+):", makefile, re.MULTILINE)}
    wanted = {*TARGET.findall((ROOT / page).read_text("utf-8"))}
    assert {name for name in wanted if not name.startswith("bench-")} <= targets
