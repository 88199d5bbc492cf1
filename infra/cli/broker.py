"""``driftloop broker``: Apache Kafka on loopback, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..broker.config import KAFKA_VERSION
from ..broker.embedded import EmbeddedBroker
from ..settings import Settings
from .console import output
from .roles import stop_on_signals


def broker(
    nodes: Annotated[int, typer.Option(help="How many; three serve on while one is down.", min=1, max=9)] = 1,
    data: Annotated[
        Path | None, typer.Option(help="Data folder; topics stay there.", show_default="<state_dir>/broker")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the first node.", show_default="a free one", min=1, max=65535)
    ] = None,
) -> None:
    """Run real Apache Kafka here: no Docker, no installed Java. Ctrl-C stops it cleanly."""
    folder = data or Settings().broker_dir()
    stop = stop_on_signals()
    with EmbeddedBroker(folder, nodes, port) as running:
        output.print(f"Kafka {KAFKA_VERSION} is ready", highlight=False)
        for name, value in (
            ("address", running.bootstrap_servers),
            ("data", str(folder.absolute())),
            ("log", ", ".join(str(running.log_file(node).absolute()) for node in range(1, nodes + 1))),
        ):
            output.print(f"  {name:8} {value}", highlight=False, soft_wrap=True)
        output.print(
            f"use it: export DRIFTLOOP_BOOTSTRAP_SERVERS={running.bootstrap_servers}", soft_wrap=True
        )
        while not stop.wait(0.2):
            running.tend()
    output.print("stopped")
