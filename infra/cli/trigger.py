"""``driftloop trigger`` and ``approve``: ask for a retraining, or say yes or no to one."""

from __future__ import annotations

from typing import Annotated

import typer

from ..control.commands import command, send
from ..settings import Settings
from .console import output
from .kafka import reached

Model = Annotated[str, typer.Argument(help="The model's name.")]


def trigger(model: Model, reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")]) -> None:
    """Ask for a retraining now, whatever the detectors say."""
    send(reached(Settings()), command(model, "trigger", why=reason))
    output.print(f"{model}: retraining requested; follow it with `driftloop status`")


def approve(
    model: Model,
    trigger_id: Annotated[str, typer.Argument(help="The trigger that waits for approval.")],
    deny: Annotated[bool, typer.Option("--deny", help="Say no instead.")] = False,
    why: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "",
) -> None:
    """Approve (or deny) a trigger of a model whose spec says approval = "needed"."""
    action = "deny" if deny else "approve"
    send(reached(Settings()), command(model, action, trigger_id=trigger_id, why=why))
    output.print(f"{model}: {trigger_id} {'denied' if deny else 'approved'}")
