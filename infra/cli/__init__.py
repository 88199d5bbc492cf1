"""The ``driftloop`` command: a Typer app of the commands in the files of this folder."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Annotated

import typer
from confluent_kafka import KafkaException

from ...schemas.errors import Error
from ...schemas.reasons.disk import disk_reason, is_full
from .console import errors
from .logs import log_to_stderr

COMMANDS = {
    "up": ("up",), "demo": ("demo",), "apply": ("apply",), "broker": ("broker",),
    "roles": ("join", "monitor", "train"), "serve": ("serve",), "score": ("score",), "status": ("status",),
    "trigger": ("trigger", "approve"), "doctor": ("doctor",),
}  # fmt: skip
GROUPS = ("topics", "models", "labels", "schema", "dlq", "tokens", "keys")


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
    for file, names in COMMANDS.items():
        for name in names:
            app.command()(getattr(_file(file), name))
    for file in GROUPS:
        app.add_typer(_file(file).commands)
    return app


def _file(name: str) -> ModuleType:
    return importlib.import_module(f".{name}", __package__)


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
    """Entry point: a traceback reaches a person only for a defect, everything else is one line."""
    log_to_stderr()
    try:
        build()()
    except Error as error:
        _end_with(str(error))
    except OSError as error:
        if not is_full(error):
            raise
        state = os.environ.get("DRIFTLOOP_STATE_DIR", ".driftloop")
        named = error.filename or f"a file (the state is in {state})"
        _end_with(f"{named} cannot be written: {disk_reason(error)}")
    except KafkaException as error:  # a question that nobody here knew could fail
        _end_with(f"Kafka does not do what was asked: {error.args[0]}")


def _end_with(line: str) -> None:
    errors.print("[bold red]error:[/]", end=" ")
    errors.print(line, highlight=False, markup=False, soft_wrap=True)
    sys.exit(1)
