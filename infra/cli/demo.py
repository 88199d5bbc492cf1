"""``driftloop demo``: the loop on real data, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import Settings
from .console import output
from .kafka import awaited


def demo(
    race: Annotated[bool, typer.Option("--race", help="Do not hold the stream while a run trains.")] = False,
    days: Annotated[int | None, typer.Option(help="Play only the first days of the year.", min=1)] = None,
    svg: Annotated[Path | None, typer.Option(help="Also save what was shown as an SVG picture.")] = None,
) -> None:
    """Run the whole loop on a year of real flights and write .driftloop/demo/report.json."""
    from ..demo.run import run_demo

    settings = Settings()
    if settings.bootstrap_servers is not None:
        awaited(settings, "demo")
    run_demo(settings, output, race=race, days=days, svg=svg)
