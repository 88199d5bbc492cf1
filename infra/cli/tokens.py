"""``driftloop tokens``: bearer tokens of the reference server."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from ..http.tokens import Scope, TokenFile
from ..settings import Settings
from .console import errors, output

commands = typer.Typer(
    name="tokens", help="Bearer tokens: who may use the reference server.", no_args_is_help=True
)


@commands.command()
def new(
    scope: Annotated[Scope, typer.Argument(help="What it allows.")],
    name: Annotated[str | None, typer.Option(help="To revoke it by.", show_default="scope and time")] = None,
) -> None:
    """Make a token and print it, this once: only its hash is kept. Servers accept it within a second."""
    file = TokenFile(Settings().keys_path())
    chosen = name or time.strftime(f"{scope}-%Y%m%d-%H%M%S", time.gmtime())
    token = file.add(scope, chosen)
    typer.echo(token)  # alone on standard output, to be piped where it is needed
    errors.print(
        f"{chosen}: kept as a hash in {file.path}; it cannot be shown again", highlight=False, soft_wrap=True
    )


@commands.command("list")
def list_tokens() -> None:
    """Every token's scope and name."""
    table = Table("name", "scope", "hash")
    for token in TokenFile(Settings().keys_path()).read():
        table.add_row(token.name, token.scope, f"{token.sha256[:12]}…")
    output.print(table)


@commands.command()
def revoke(name: Annotated[str, typer.Argument(help="As `driftloop tokens list` shows it.")]) -> None:
    """Revoke a token. Servers refuse it within a second."""
    token = TokenFile(Settings().keys_path()).revoke(name)
    output.print(f"{token.name} ({token.scope}) is revoked", highlight=False)
