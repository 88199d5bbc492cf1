"""Roles while Kafka is away: no line of a kind more often than once a minute, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.cluster.topics import apply_topics
from driftloop.infra.control.specs import apply_deployment
from driftloop.infra.settings import Settings
from driftloop.schemas.spec.file import parse_deployment
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.log_limit import kind_of
from driftloop.streams.serve.client import EventClient

from tests.support.cli import environment_of
from tests.support.kafka.topics import new_settings
from tests.support.monitor.progress import MonitorProgress
from tests.support.waiting import wait_until

TOML = """
[models.late]
classes = ["late", "on_time"]
[models.late.features]
hour = "number"
"""
ROLES = {"join": ("join",), "monitor": ("monitor",), "train": ("train",), "serve": ("serve", "late")}
AWAY_S = 25.0  # librdkafka alone wrote twenty lines a second


class Role:
    """A role's process, and what it has printed."""

    def __init__(self, words: tuple[str, ...], settings: Settings) -> None:
        own = {"DRIFTLOOP_HTTP_PORT": "0", "PYTHONUNBUFFERED": "1"}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "driftloop", *words],
            env=os.environ | environment_of(settings) | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip("\n"))

    def stop(self) -> list[str]:
        self.process.terminate()
        self.process.wait(30)
        self._reader.join()
        return self.lines


def emit(connection: Connection, name: str, count: int) -> None:
    with EventClient(connection) as client:
        for number in range(count):
            named = client.prediction("late", 1, {"hour": 1}, "late", prediction_id=f"{name}-{number}")
            client.label(named, "late" if number % 4 else "on_time")


def test_no_kind_of_line_comes_more_often_than_once_a_minute(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    settings = new_settings(own_broker.bootstrap_servers, tmp_path)
    connection = settings.connection()
    apply_topics(connection, data_partitions=2, model_partitions=2)
    apply_deployment(connection, parse_deployment(TOML, source="test"))
    began = time.monotonic()
    roles = {name: Role(words, settings) for name, words in ROLES.items()}
    try:
        emit(connection, "before", 200)
        with closing(MonitorProgress(connection)) as progress:
            wait_until(lambda: any(progress.applied().values()), "the monitor has begun")
            wait_until(lambda: progress.behind() == 0, "the monitor has applied it")
        own_broker.kill_node(1)
        time.sleep(AWAY_S)
        own_broker.start_node(1)
        emit(connection, "after", 200)
        with closing(MonitorProgress(connection)) as progress:
            wait_until(lambda: progress.behind() == 0, "the monitor has gone on")
    finally:
        said = {name: role.stop() for name, role in roles.items()}
    minutes = (time.monotonic() - began) / 60
    for name, lines in said.items():
        assert roles[name].process.returncode in (0, -signal.SIGTERM), (name, lines)
        assert not [line for line in lines if line.startswith("Traceback")], (name, lines)
        for kind, count in Counter(kind_of("", line) for line in lines).items():
            assert count <= minutes + 1, (name, kind, lines)
        assert len(lines) <= 20 * (minutes + 1), (name, lines)
