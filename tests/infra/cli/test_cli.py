"""The command line as a person meets it: help, version, one clear line for what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
from driftloop.infra.settings import Settings
from driftloop.schemas.topics import CATALOGUE
from driftloop.streams.kafka.connection import Connection

TOML = """
[models.late]
classes = ["late", "on_time"]
[models.late.features]
hour = "number"
"""


def driftloop(*words: str, cwd: Path, settings: Settings | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
    environment["COLUMNS"] = "160"
    if settings is not None:
        environment |= {
            "DRIFTLOOP_BOOTSTRAP_SERVERS": settings.bootstrap_servers or "",
            "DRIFTLOOP_TOPIC_PREFIX": settings.topic_prefix,
            "DRIFTLOOP_STATE_DIR": str(settings.state_dir),
            "DRIFTLOOP_DATA_PARTITIONS": "2",
            "DRIFTLOOP_MODEL_PARTITIONS": "2",
        }
    return subprocess.run(
        [sys.executable, "-m", "driftloop", *words],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_version_and_help_are_printed(tmp_path: Path) -> None:
    assert driftloop("--version", cwd=tmp_path).stdout.startswith("driftloop 0.")
    reported = driftloop("--help", cwd=tmp_path).stdout
    for command in ("up", "demo", "apply", "broker", "join", "monitor", "train", "serve", "score", "status",
                    "models", "trigger", "approve", "labels", "topics", "schema"):  # fmt: skip
        assert command in reported


def test_without_a_cluster_a_command_says_how_to_get_one(tmp_path: Path) -> None:
    done = driftloop("status", cwd=tmp_path)
    assert done.returncode == 1
    assert "DRIFTLOOP_BOOTSTRAP_SERVERS" in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_export_writes_asyncapi_and_a_schema_per_event(tmp_path: Path) -> None:
    assert driftloop("schema", "export", "out", cwd=tmp_path).returncode == 0
    document = orjson.loads((tmp_path / "out" / "asyncapi.json").read_bytes())
    assert set(document["channels"]) == {topic.name for topic in CATALOGUE}
    assert (tmp_path / "out" / "Prediction.schema.json").is_file()


def test_a_new_deployment_from_topics_to_status(
    connection: Connection, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "driftloop.toml").write_text(TOML)
    assert driftloop("topics", "check", cwd=tmp_path, settings=settings).returncode == 1
    assert "created" in driftloop("topics", "apply", cwd=tmp_path, settings=settings).stdout
    assert driftloop("topics", "check", cwd=tmp_path, settings=settings).returncode == 0
    first = driftloop("apply", cwd=tmp_path, settings=settings)
    assert "published  model late" in first.stdout, first.stderr
    assert "unchanged  model late" in driftloop("apply", cwd=tmp_path, settings=settings).stdout
    reported = driftloop("status", cwd=tmp_path, settings=settings)
    assert reported.returncode == 0, reported.stderr
    assert "late" in reported.stdout
    assert "none yet" in reported.stdout
    assert "dead letters: none" in reported.stdout
    assert "late" in driftloop("models", "list", cwd=tmp_path, settings=settings).stdout
    assert "late: versions" in driftloop("models", "show", "late", cwd=tmp_path, settings=settings).stdout
    missing = driftloop("models", "show", "lat", cwd=tmp_path, settings=settings)
    assert missing.returncode == 1
    assert "known models: late" in missing.stderr


def test_a_wrong_spec_is_named_and_nothing_is_published(
    topics: Connection, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "driftloop.toml").write_text("[models.late]\nclases = []")
    done = driftloop("apply", cwd=tmp_path, settings=settings)
    assert done.returncode == 1
    assert "did you mean 'classes'?" in done.stderr
    assert "none yet" in driftloop("status", cwd=tmp_path, settings=settings).stdout
