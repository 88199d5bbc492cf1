"""The ``driftloop`` command: a Typer app that each file of this folder adds its commands to."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ...schemas.errors import Error
from .console import errors

COMMAND_FILES = (
    "up", "demo", "apply", "topics", "broker", "roles", "serve", "score", "status", "models", "trigger",
    "labels", "schema", "dlq", "doctor", "tokens", "keys",
)  # fmt: skip


def build() -> typer.Typer:
    """The whole app, every command registered."""
    app = typer.Typer(
        name="driftloop",
        help="Keeps deployed models right: join, watch, retrain, prove, swap.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_version_option)
    for name in COMMAND_FILES:
        importlib.import_module(f".{name}", __package__).register(app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"driftloop {version('driftloop')}")
        raise typer.Exit


def _version_option(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """The options of the command itself."""


def main() -> None:
    """Entry point: what driftloop raises on purpose is one line for a person; the rest is a traceback."""
    try:
        build()()
    except Error as error:
        errors.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
