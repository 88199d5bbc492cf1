"""``driftloop schema export``: the interface for any language."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ...schemas.export import asyncapi, json_schemas
from ..settings import Settings
from .console import output

commands = typer.Typer(name="schema", help="The events and topics, for any language.", no_args_is_help=True)


@commands.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Where to write; made when missing.")] = Path("schema"),
) -> None:
    """Write asyncapi.json (AsyncAPI 3) and one JSON Schema per event."""
    directory.mkdir(parents=True, exist_ok=True)
    document = asyncapi(Settings().topic_prefix, version("driftloop"))
    _write(directory / "asyncapi.json", document)
    schemas = json_schemas()
    for name, schema in schemas.items():
        _write(directory / f"{name}.schema.json", schema)
    output.print(f"wrote asyncapi.json and {len(schemas)} schemas to {directory}")


def _write(path: Path, document: object) -> None:
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
