"""``driftloop models``: which versions there are, and commands that change which one serves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer
from rich.table import Table

from ...models.registry.artifacts import ArtifactStore
from ...schemas.decisions import Action
from ...schemas.errors import Error
from ..control.commands import command, send
from ..settings import Settings
from ..status.overview import ModelView, Overview, read_overview
from .console import output
from .kafka import reached

_WHY_CHARS = 70  # of the reason of a run's end, so that it fits into a line

Model = Annotated[str, typer.Argument(help="The model's name.")]
Why = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]
Generation = Annotated[
    int | None, typer.Option(help="The generation you saw: the command is refused if it has changed since.")
]


commands = typer.Typer(name="models", help="Versions, and which one serves.", no_args_is_help=True)


@commands.command("list")
def list_models() -> None:
    """Every model with its live version."""
    overview = read_overview(reached(Settings()))
    table = Table("model", "live version", "generation", "rolling accuracy", "versions", "last run")
    for name, view in sorted(overview.models.items()):
        table.add_row(
            name,
            shown_version(view),
            "" if view.update is None else str(view.update.generation),
            "" if view.accuracy is None else f"{view.accuracy:.1%}",
            "0" if view.update is None else str(view.update.last_version),
            shown_run(view),
        )
    output.print(table)


@commands.command()
def show(model: Model) -> None:
    """One model: its versions with their parents, its runs with each gate's result."""
    settings = Settings()
    view = _known(read_overview(reached(settings)), model)
    versions = Table(
        "version", "parent", "made", "format", "learner", "accuracy then", title=f"{model}: versions"
    )
    stored = ArtifactStore(settings.store_url()).list_manifests(model)
    numbered = [manifest for manifest in stored if manifest.version > 0]  # 0: a draft
    for manifest in sorted(numbered, key=lambda one: (one.version, one.refresh)):
        versions.add_row(
            f"{manifest.version}{' (live)' if manifest.version == view.champion else ''}",
            "" if manifest.parent is None else str(manifest.parent),
            shown_time(manifest.created_ms),
            manifest.format,
            manifest.learner,
            "" if manifest.reference.accuracy is None else f"{manifest.reference.accuracy:.1%}",
        )
    output.print(versions)
    runs = Table("run", "when", "reason", "stage", "status", "gates", "why", title=f"{model}: runs")
    for run in sorted(view.runs.values(), key=lambda run: (run.ts, run.stage)):
        gates = "\n".join(f"{'✓' if gate.passed else '✗'} {gate.gate}: {gate.reason}" for gate in run.gates)
        runs.add_row(run.run_id, shown_time(run.ts), run.reason, str(run.stage), run.status, gates, run.why)
    output.print(runs)


@commands.command("register")
def register_model(
    model: Model,
    file: Annotated[Path, typer.Argument(help="An ONNX model.")],
    reference: Annotated[
        Path, typer.Option(help="CSV of rows with their labels: the reference drift is measured against.")
    ],
    label_column: Annotated[str, typer.Option(help="The CSV's column with the label.")] = "label",
    why: Why = "",
) -> None:
    """Register a model that already exists: it becomes the next version and goes live."""
    from ..control.registration import (
        store_registration,  # onnxruntime: of the serve extra, and slow to import
    )

    settings = Settings()
    connection = reached(settings)
    digest = store_registration(
        connection, settings.store_url(), model, file, reference, label_column=label_column
    )
    result = send(connection, command(model, "register", why=why, manifest_sha256=digest), timeout_s=60)
    output.print(f"{model}: registered and live, generation {result.generation}")


@commands.command()
def promote(
    model: Model, version: Annotated[int, typer.Argument()], why: Why = "", generation: Generation = None
) -> None:
    """Make a known version the champion."""
    _send(model, "promote", why, generation, version)


@commands.command()
def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option(help="Which version; without it, the champion's parent.")] = None,
    why: Why = "",
    generation: Generation = None,
) -> None:
    """Go back to an earlier version."""
    _send(model, "rollback", why, generation, to)


@commands.command()
def pin(model: Model, why: Why = "", generation: Generation = None) -> None:
    """Keep the live version until unpinned, whatever runs find."""
    _send(model, "pin", why, generation, None)


@commands.command()
def unpin(model: Model, why: Why = "", generation: Generation = None) -> None:
    """Let runs promote again."""
    _send(model, "unpin", why, generation, None)


@commands.command()
def block(
    model: Model, version: Annotated[int, typer.Argument()], why: Why = "", generation: Generation = None
) -> None:
    """Never let this version go live again."""
    _send(model, "block", why, generation, version)


@commands.command()
def retire(model: Model, why: Why = "", generation: Generation = None) -> None:
    """Stop serving this model: servers answer 503 or its fallback."""
    _send(model, "retire", why, generation, None)


def _send(model: str, action: Action, why: str, generation: int | None, version: int | None) -> None:
    wanted = command(model, action, why=why, generation=generation, version=version)
    result = send(reached(Settings()), wanted)
    output.print(f"{model}: {action} done, generation {result.generation} {result.reason}".rstrip())


def _known(overview: Overview, model: str) -> ModelView:
    if model not in overview.models:
        known = (
            ", ".join(sorted(overview.models)) or "none yet: publish driftloop.toml with `driftloop apply`"
        )
        raise Error(f"there is no model {model!r}; known models: {known}")
    return overview.models[model]


def shown_run(view: ModelView) -> str:
    """The last run in a line."""
    run = view.last_run
    if run is None:
        return "none yet"
    if run.status == "waiting" and run.progress is not None:
        return f"waiting: {run.progress.labels} of {run.progress.needed} labels"
    why = shorten(run.why, _WHY_CHARS, placeholder=" …")
    return f"{run.status} {'' if run.version is None else f'v{run.version} '}{why}".strip()


def shown_version(view: ModelView) -> str:
    if view.update is None:
        return "none yet"
    return "retired" if view.champion is None else str(view.champion)


def shown_time(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%d %H:%M")
