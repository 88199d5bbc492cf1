"""Links between pages lead somewhere, and the examples on them are what runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from driftloop.schemas.spec.file import parse_deployment

from tests.support.paths import DOCS, ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "tests").glob("*.md"), *DOCS.rglob("*.md")]
CODE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken: list[str] = []
    for link in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](#a-page) [b](#b) [c](other.md) [d](https://example.org)\n", "utf-8")
    assert broken_links(page) == ["#b", "other.md"]


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    reached, waiting = {ROOT / "README.md"}, [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(page.read_text("utf-8")):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert set(DOCS.rglob("*.md")) <= reached


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_spec_on_a_page_is_read(page: str) -> None:
    for spec in re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S):
        assert parse_deployment(spec, source=page).models


def test_the_server_on_the_page_is_the_example() -> None:
    example = (ROOT / "examples" / "own_server.py").read_text("utf-8")
    assert f"```python\n{example}```" in (DOCS / "getting-started.md").read_text("utf-8")


def test_every_decision_is_in_the_index_and_fits_a_page() -> None:
    index = (DOCS / "decisions" / "README.md").read_text("utf-8")
    for page in (DOCS / "decisions").glob("0*.md"):
        assert f"({page.name})" in index
        assert len(page.read_text("utf-8").splitlines()) <= 60


def test_decisions_are_numbered_without_a_gap_and_bear_their_numbers() -> None:
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    numbers = [f"{number:04d}" for number in range(1, len(pages) + 1)]
    assert [page.name.partition("-")[0] for page in pages] == numbers
    for number, page in zip(numbers, pages, strict=True):
        assert page.read_text("utf-8").startswith(f"# {number} · ")
