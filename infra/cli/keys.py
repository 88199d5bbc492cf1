"""``driftloop keys``: the keys that model updates and manifests are signed with."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ...models.registry.keys import list_keys, new_key, revoke_key, use_key
from ...models.registry.signing import load_verifier
from ..control.commands import command, send
from ..control.reissue import store_reissue
from ..settings import Settings
from .console import output

KeyId = Annotated[str, typer.Argument(help="As `driftloop keys list` shows it.")]


commands = typer.Typer(
    name="keys", help="Signing keys: who may change what servers serve.", no_args_is_help=True
)


@commands.command()
def new() -> None:
    """Make a signing key. Servers must have its public half before anything is signed with it."""
    keys_dir = Settings().keys_path()
    key_id = new_key(keys_dir)
    output.print(key_id, highlight=False)
    output.print(
        f"put {keys_dir}/trusted/{key_id}.pub on every server, then `driftloop keys use {key_id}`",
        highlight=False,
        soft_wrap=True,
    )


@commands.command("list")
def list_known() -> None:
    """Every key in this folder: which one signs, which are trusted, which were revoked."""
    table = Table("key", "here", "trusted", "why")
    for info in list_keys(Settings().keys_path()):
        here = "signs" if info.signing else ("could sign" if info.private else "public half")
        table.add_row(info.key_id, here, "revoked" if info.revoked else str(info.trusted).lower(), info.why)
    output.print(table)


@commands.command()
def use(key_id: KeyId) -> None:
    """Sign with this key from the trainer's next start on."""
    use_key(Settings().keys_path(), key_id)
    output.print(f"{key_id} signs from the trainer's next start on", highlight=False)


@commands.command()
def reissue(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    why: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = "reissued",
) -> None:
    """Reissue the live version as the next one, under a new key, so that its old key can be revoked."""
    settings = Settings()
    connection = settings.connection()
    version, digest = store_reissue(
        connection, settings.store_url(), load_verifier(settings.keys_path()), model
    )
    reason = f"version {version}, {why}"
    result = send(connection, command(model, "register", why=reason, manifest_sha256=digest), timeout_s=60)
    output.print(f"{model}: version {version} reissued, generation {result.generation}", highlight=False)


@commands.command()
def revoke(
    key_id: KeyId, why: Annotated[str, typer.Option(help="Why; shown by `driftloop keys list`.")] = ""
) -> None:
    """Trust nothing that this key ever signed. Put the file that this makes on every server."""
    keys_dir = Settings().keys_path()
    revoke_key(keys_dir, key_id, why)
    output.print(
        f"{key_id} is revoked here; put {keys_dir}/trusted/{key_id}.revoked on every server",
        highlight=False,
        soft_wrap=True,
    )
