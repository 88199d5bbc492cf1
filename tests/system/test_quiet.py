"""Roles while Kafka is away: no line of a kind more often than once a minute, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.cluster.topics import apply_topics
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.spec.file import parse_deployment
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.log_limit import kind_of
from driftloop.streams.serve.client import EventClient

from tests.support.kafka.broker import embedded
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

    def __init__(self, words: tuple[str, ...], connection: Connection, folder: Path) -> None:
        environment = {
            "DRIFTLOOP_BOOTSTRAP_SERVERS": connection.bootstrap_servers,
            "DRIFTLOOP_TOPIC_PREFIX": connection.prefix,
            "DRIFTLOOP_STATE_DIR": str(folder / "state"),
            "DRIFTLOOP_HTTP_PORT": "0",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "300",
        }
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "driftloop", *words],
            env=os.environ | environment,
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


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with embedded(tmp_path / "broker") as broker:
        yield broker


def emit(connection: Connection, name: str, count: int) -> None:
    with EventClient(connection) as client:
        for number in range(count):
            told = client.prediction("late", 1, {"hour": 1}, "late", prediction_id=f"{name}-{number}")
            client.label(told, "late" if number % 4 else "on_time")


def test_no_kind_of_line_comes_more_often_than_once_a_minute(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    connection = Connection(own_broker.bootstrap_servers, "quiet.")
    apply_topics(connection, data_partitions=2, model_partitions=2)
    apply_deployment(connection, parse_deployment(TOML, source="test"))
    began = time.monotonic()
    roles = {name: Role(words, connection, tmp_path) for name, words in ROLES.items()}
    try:
        emit(connection, "before", 200)
        progress = MonitorProgress(connection)
        wait_until(
            lambda: any(progress.applied().values()) and progress.behind() == 0, "the monitor has applied it"
        )
        progress.close()
        own_broker.kill_node(1)
        time.sleep(AWAY_S)
        own_broker.start_node(1)
        emit(connection, "after", 200)
        with_it = MonitorProgress(connection)
        wait_until(lambda: with_it.behind() == 0, "the monitor has gone on")
        with_it.close()
    finally:
        said = {name: role.stop() for name, role in roles.items()}
    minutes = (time.monotonic() - began) / 60
    for name, lines in said.items():
        assert roles[name].process.returncode in (0, -signal.SIGTERM), (name, lines)
        assert not [line for line in lines if line.startswith("Traceback")], (name, lines)
        for kind, count in Counter(kind_of("", line) for line in lines).items():
            assert count <= minutes + 1, (name, kind, lines)
        assert len(lines) <= 20 * (minutes + 1), (name, lines)
