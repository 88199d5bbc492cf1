"""Terminal output as an SVG picture: ``driftloop demo --svg FILE`` made docs/pictures/demo.svg."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI

COLUMNS = 112


def save_svg(path: Path, *shown: RenderableType, title: str) -> None:
    """Draw what a terminal would show."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for one in shown:
        console.print(one)
    drawn = console.export_svg(title=title, theme=MONOKAI, unique_id="driftloop", font_aspect_ratio=0.602)
    # Rich's format fetches its font from the web, which a picture in a page may not.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S)
    drawn = drawn.replace(
        "Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawn, "utf-8")
