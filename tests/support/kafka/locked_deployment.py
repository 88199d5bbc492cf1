"""A deployment on a locked broker: every role with a user and rights of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from driftloop.infra.status.overview import Overview, read_overview
from driftloop.streams.kafka.connection import Connection

from tests.support.kafka.secured import MARK, SecuredKafka

PREFIX = "locked."
LOOP = ("join", "monitor", "train", "serve")
HTTP = {scope: f"{MARK}-token-of-{scope}-0123456789" for scope in ("predict", "feedback", "admin")}
HASH_KEY = f"{MARK}-that-hashes"
# Every logger of a process tells all it can, librdkafka's and the other libraries' among them.
TELL_ALL = "import logging\nlogging.basicConfig(level=logging.DEBUG)\nlogging.raiseExceptions = True\n"
TOML = """
[models.late]
classes = ["late", "on_time"]
[models.late.features]
hour = "number"
tail = { type = "category", privacy = "hash" }
[models.late.learner]
kind = "river"
[models.late.triggers]
first_labels = 40
[models.late.serving]
fallback = "on_time"
"""


@dataclass
class Locked:
    """A deployment on a locked cluster, and who said what."""

    kafka: SecuredKafka
    folder: Path
    lines: list[str] = field(default_factory=list[str])
    address: str = ""
    printing: threading.Lock = field(default_factory=threading.Lock)

    def connection(self, role: str) -> Connection:
        return self.kafka.as_user(role, PREFIX)

    def environment(self, config: dict[str, str]) -> dict[str, str]:
        kafka = {
            f"DRIFTLOOP_KAFKA__{name.replace('.', '_').upper()}": value for name, value in config.items()
        }
        return {
            "DRIFTLOOP_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "DRIFTLOOP_TOPIC_PREFIX": PREFIX,
            "DRIFTLOOP_STATE_DIR": str(self.folder / "state"),
            "DRIFTLOOP_CONFIG": str(self.folder / "driftloop.toml"),
            "DRIFTLOOP_DATA_PARTITIONS": "2",
            "DRIFTLOOP_MODEL_PARTITIONS": "2",
            "DRIFTLOOP_HTTP_TOKENS": ",".join(f"{scope}={token}" for scope, token in HTTP.items()),
            "DRIFTLOOP_HASH_KEY": HASH_KEY,
            "DRIFTLOOP_KAFKA__DEBUG": "security,conf,feature",
            "DRIFTLOOP_KAFKA__LOG_LEVEL": "7",
            "PYTHONPATH": str(self.folder / "tell-all"),
            "COLUMNS": "200",
            **kafka,
        }

    def run(self, *words: str, user: str) -> str:
        """A command of the command line, as a user; it must succeed."""
        done = self.attempt(*words, user=user)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def attempt(self, *words: str, user: str) -> subprocess.CompletedProcess[str]:
        config = self.kafka.security.admin_config() if user == "admin" else self.kafka.user_config(user)
        done = subprocess.run(
            [sys.executable, "-m", "driftloop", *words], env=os.environ | self.environment(config),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        self.lines += [f"{words[0]}: {line}" for line in (done.stdout + done.stderr).splitlines()]
        return done

    def say(self, role: str, line: str) -> None:
        with self.printing:
            self.lines.append(f"{role}: {line}")

    def overview(self) -> Overview:
        return read_overview(self.connection("status"))
