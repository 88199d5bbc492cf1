"""``driftloop`` as a person calls it, in the test's own process: a new one for each call costs seconds."""

from __future__ import annotations

import pytest
from click.testing import Result
from driftloop.infra.cli import build
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import Error
from typer.testing import CliRunner


def driftloop(*words: str, settings: Settings) -> Result:
    """What it printed and its exit code; errors meant for people are in ``output``."""
    environment = {
        "COLUMNS": "200",
        "DRIFTLOOP_BOOTSTRAP_SERVERS": settings.bootstrap_servers or "",
        "DRIFTLOOP_TOPIC_PREFIX": settings.topic_prefix,
        "DRIFTLOOP_STATE_DIR": str(settings.state_dir),
        "DRIFTLOOP_CONFIG": str(settings.config),
        "DRIFTLOOP_DATA_PARTITIONS": str(settings.data_partitions),
        "DRIFTLOOP_MODEL_PARTITIONS": str(settings.model_partitions),
    }
    result = CliRunner().invoke(build(), list(words), env=environment)
    if isinstance(result.exception, Error):
        result.stdout_bytes += f"error: {result.exception}".encode()
        result.output_bytes += f"error: {result.exception}".encode()
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        pytest.fail(f"driftloop {' '.join(words)} crashed: {result.exception!r}")
    return result
