"""docs/reliability.md names only tests that exist, and promises nothing without one."""

from __future__ import annotations

import re

from tests.support.paths import DOCS, ROOT

PAGE = DOCS / "reliability.md"


def promises() -> list[list[str]]:
    """The rows of the table of promises: what, kept by, tested by."""
    table = PAGE.read_text("utf-8").partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]


def test_every_promise_names_a_test() -> None:
    assert len(promises()) > 10
    for what, _, tested in promises():
        assert "`test_" in tested, f"no test is named for: {what}"


def test_every_test_that_is_named_exists() -> None:
    for what, _, tested in promises():
        named = re.findall(r"`(tests/[\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", tested)
        assert named, f"no file of tests is named for: {what}"
        for file, names in named:
            source = (ROOT / file).read_text("utf-8")
            for name in re.findall(r"`(test_\w+)`", names):
                assert re.search(rf"def {name}\(", source), f"{file} has no {name}"


def test_what_the_soak_is_said_to_count_is_counted() -> None:
    page = (DOCS / "soak.md").read_text("utf-8")
    for *_, tested in promises():
        for counted in re.findall(r"`([\w-]+)`", tested.partition("soak: ")[2]):
            assert counted in page, f"docs/soak.md knows no {counted}"
