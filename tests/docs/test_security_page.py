"""docs/security.md says what is so: the roles' rights, and commands that exist."""

from __future__ import annotations

import re

import pytest
from driftloop.infra.cli import build
from driftloop.infra.cluster.acls import ROLES
from typer.testing import CliRunner

from tests.support.paths import DOCS

PAGE = (DOCS / "security.md").read_text("utf-8")


@pytest.mark.parametrize("role", ROLES)
def test_the_rights_of_every_role_are_on_the_page(role: str) -> None:
    access = ROLES[role]
    reads, writes = (", ".join(topic.name for topic in of) or "–" for of in (access.reads, access.writes))
    assert f"| `{role}` | {access.does} | {reads} | {writes} |" in PAGE.splitlines()


def test_no_role_is_on_the_page_that_is_none() -> None:
    rows = PAGE.partition("| role | is |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", rows, re.M)) == set(ROLES)


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"driftloop ((?:keys|tokens|topics) [a-z]+)", PAGE)))
)
def test_every_command_of_the_page_exists(command: str) -> None:
    shown = CliRunner().invoke(build(), [*command.split(), "--help"])
    assert shown.exit_code == 0, shown.output
