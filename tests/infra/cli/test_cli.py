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

from tests.support.cli import driftloop
from tests.support.full_disk import FullDisk

TOML = """
[models.late]
classes = ["late", "on_time"]
[models.late.features]
hour = "number"
"""


def process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "driftloop", *words],
        cwd=cwd, env=os.environ | {"COLUMNS": "160"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_version_and_help_are_printed(tmp_path: Path) -> None:
    assert process("--version", cwd=tmp_path).stdout.startswith("driftloop 0.")
    reported = process("--help", cwd=tmp_path).stdout
    for command in ("up", "demo", "apply", "broker", "join", "monitor", "train", "serve", "score", "status",
                    "models", "trigger", "approve", "labels", "topics", "schema"):  # fmt: skip
        assert command in reported


def test_without_a_cluster_a_command_says_how_to_get_one(tmp_path: Path) -> None:
    done = process("status", cwd=tmp_path)
    assert done.returncode == 1
    assert "DRIFTLOOP_BOOTSTRAP_SERVERS" in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_export_writes_asyncapi_and_a_schema_per_event(tmp_path: Path) -> None:
    assert process("schema", "export", "out", cwd=tmp_path).returncode == 0
    document = orjson.loads((tmp_path / "out" / "asyncapi.json").read_bytes())
    assert set(document["channels"]) == {topic.name for topic in CATALOGUE}
    assert (tmp_path / "out" / "Prediction.schema.json").is_file()


def test_a_full_disk_is_one_line_that_names_the_folder(disk: FullDisk, tmp_path: Path) -> None:
    disk.fill()
    done = process("schema", "export", str(tmp_path / "disk" / "out"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "cannot be written: its disk is full: free some space there" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_new_deployment_from_topics_to_status(settings: Settings) -> None:
    settings.config.write_text(TOML)
    assert driftloop("topics", "check", settings=settings).exit_code == 1
    assert "created" in driftloop("topics", "apply", settings=settings).stdout
    assert driftloop("topics", "check", settings=settings).exit_code == 0
    first = driftloop("apply", settings=settings)
    assert "published  model late" in first.stdout, first.output
    assert "unchanged  model late" in driftloop("apply", settings=settings).stdout
    reported = driftloop("status", settings=settings)
    assert reported.exit_code == 0, reported.output
    assert "late" in reported.stdout
    assert "none yet" in reported.stdout
    assert "dead letters: none" in reported.stdout
    assert "late" in driftloop("models", "list", settings=settings).stdout
    assert "late: versions" in driftloop("models", "show", "late", settings=settings).stdout
    missing = driftloop("models", "show", "lat", settings=settings)
    assert missing.exit_code == 1
    assert "known models: late" in missing.output


def test_a_wrong_spec_is_named_and_nothing_is_published(topics: Connection, settings: Settings) -> None:
    settings.config.write_text("[models.late]\nclases = []")
    done = driftloop("apply", settings=settings)
    assert done.exit_code == 1
    assert "did you mean 'classes'?" in done.output
    assert "none yet" in driftloop("status", settings=settings).stdout
