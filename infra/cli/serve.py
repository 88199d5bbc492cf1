"""``driftloop serve``: the reference server."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from ..settings import Settings
from .console import errors
from .kafka import awaited
from .logs import log_to_stderr


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(help="Which models.", show_default="all that are published")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8080", min=0, max=65535)
    ] = None,
) -> None:
    """Serve models over HTTP: /predict, /feedback, /model, /health/live, /health/ready, /metrics."""
    from ..http.server import run_server

    log_to_stderr(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    given = {"http_host": host, "http_port": port}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    if not models:
        awaited(settings, "serve")  # only Kafka knows which; a server of given models starts without it
    run_server(
        settings, models or (), announce=lambda line: errors.print(line, highlight=False, soft_wrap=True)
    )
