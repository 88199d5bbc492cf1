"""The demo's picture is what a terminal shows, and loads nothing from the web."""

from __future__ import annotations

from pathlib import Path

from driftloop.infra.demo.svg import save_svg
from rich.panel import Panel


def test_a_picture_shows_what_was_printed_and_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "demo.svg"
    save_svg(path, Panel("version 3 is live"), "all is well", title="make demo")
    drawn = path.read_text("utf-8").replace("&#160;", " ")
    assert all(text in drawn for text in ("version 3 is live", "all is well", "make demo"))
    assert "@font-face" not in drawn
    assert "url(" not in drawn.replace("url(#", "")  # only parts of itself
