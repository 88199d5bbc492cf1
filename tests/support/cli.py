"""``driftloop`` as a person calls it, in the test's own process: a new one for each call costs seconds."""

from __future__ import annotations

import pytest
from click.testing import Result
from driftloop.infra.cli import build
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import Error
from typer.testing import CliRunner


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that leads a process of driftloop to the test's deployment."""
    names = ("topic_prefix", "state_dir", "config", "data_partitions", "model_partitions")
    return {
        "COLUMNS": "300",
        "DRIFTLOOP_BOOTSTRAP_SERVERS": settings.bootstrap_servers or "",
        **{f"DRIFTLOOP_{name.upper()}": str(getattr(settings, name)) for name in names},
    }


def driftloop(*words: str, settings: Settings, given: bytes | None = None) -> Result:
    """What it printed and its exit code; errors meant for people are in ``output``. It reads ``given``."""
    result = CliRunner().invoke(build(), list(words), env=environment_of(settings), input=given)
    if isinstance(result.exception, Error):
        result.stderr_bytes += f"error: {result.exception}".encode()
        result.output_bytes += f"error: {result.exception}".encode()
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        pytest.fail(f"driftloop {' '.join(words)} crashed: {result.exception!r}")
    return result
