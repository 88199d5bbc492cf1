"""Every command and role where no Kafka answers: one line that says so, the same in all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOML = '[models.late]\nclasses = ["late", "on_time"]\n[models.late.features]\nhour = "number"\n'
COMMANDS = (
    "apply", "topics apply", "topics check", "topics acls --apply", "status", "dlq ls", "dlq show x-1",
    "dlq drop x-1 --why test", "models list", "models show late", "models rollback late --why test",
    "models register late model.onnx --reference labels.csv", "trigger late --reason test",
    "approve late t-1", "labels import labels.csv", "score late labels.csv",
)  # fmt: skip
ROLES = ("join", "monitor", "train", "serve", "up")
TOGETHER = 6  # each takes a second of a core to start, then only waits


def start(words: str, address: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "driftloop", *words.split()],
        cwd=folder,
        env={
            "PATH": "",
            "HOME": str(folder),
            "COLUMNS": "300",
            "DRIFTLOOP_BOOTSTRAP_SERVERS": address,
            "DRIFTLOOP_HTTP_PORT": "0",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "driftloop.toml").write_text(TOML)
    (tmp_path / "labels.csv").write_text("prediction_id,label\np1,late\n")
    (tmp_path / "model.onnx").write_bytes(b"")
    return tmp_path


def outputs(commands: tuple[str, ...], address: str, folder: Path) -> dict[str, list[str]]:
    """What each printed until it ended, by itself, with exit code 1."""
    found: dict[str, list[str]] = {}
    for begin in range(0, len(commands), TOGETHER):
        running = {words: start(words, address, folder) for words in commands[begin : begin + TOGETHER]}
        for words, process in running.items():
            found[words] = process.communicate(timeout=120)[0].splitlines()
            assert process.returncode == 1, (words, found[words])
    return found


def test_every_command_ends_with_the_same_line(nowhere: str, folder: Path) -> None:
    for words, lines in outputs(COMMANDS, nowhere, folder).items():
        assert len(lines) == 1, (words, lines)
        assert lines[0].startswith(f"error: no Kafka answers at {nowhere}: "), (words, lines)
        assert "Connection refused" in lines[0]


def test_the_doctor_finds_it(nowhere: str, folder: Path) -> None:
    (lines,) = outputs(("doctor",), nowhere, folder).values()
    (fault,) = [line for line in lines if "cluster:" in line]
    assert f"cluster: no Kafka answers at {nowhere}: " in fault


def test_a_role_says_that_it_waits_and_ends_with_the_same_line(nowhere: str, folder: Path) -> None:
    for role, lines in outputs(ROLES, nowhere, folder).items():
        *before, last = lines
        assert last.startswith(f"error: no Kafka answers at {nowhere}: "), (role, lines)
        waiting = [line for line in before if line.startswith(f"{role}: waiting up to ")]
        assert len(waiting) == 1, (role, lines)
        assert len(lines) <= 3, (role, lines)
