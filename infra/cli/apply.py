"""``driftloop apply``: publish the models of driftloop.toml."""

from __future__ import annotations

from ...schemas.spec.file import load_deployment
from ...schemas.spec.model import JOIN_KEY
from ..control.specs import apply_deployment
from ..settings import Settings
from .console import output
from .kafka import reached


def apply() -> None:
    """Publish the models of driftloop.toml; every role follows the published spec, none reads the file."""
    settings = Settings()
    deployment = load_deployment(settings.config)
    applied = apply_deployment(reached(settings), deployment)
    for name in applied.changed:
        output.print(f"published  {_shown(name)}")
    for name in applied.unchanged:
        output.print(f"unchanged  {_shown(name)}")


def _shown(name: str) -> str:
    return "join settings" if name == JOIN_KEY else f"model {name}"
