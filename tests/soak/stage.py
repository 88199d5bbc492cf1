"""The deployment of a run: three models that learn quickly, short horizons, and every role as a process."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from driftloop.infra.cluster.topics import apply_topics
from driftloop.infra.control.specs import apply_deployment
from driftloop.infra.settings import PREFIX, Settings
from driftloop.schemas.spec.file import parse_deployment
from driftloop.schemas.topics import CATALOGUE
from driftloop.streams.kafka.connection import Connection

from tests.soak.checks.expect import Windows
from tests.soak.processes import Processes
from tests.soak.quiet import wait_for
from tests.soak.traffic.http import health
from tests.support.moved_clock import MovedClocks

SERVERS = 2
JOINERS = ("join-0", "join-1")
MONITORS = ("monitor-0", "monitor-1")

_TOML = """
[join]
horizon = "{horizon_s:g}s"
early_horizon = "{early_s:g}s"
correction_window = "{horizon_s:g}s"
clock_skew = "1s"

[models.alpha]
classes = ["late", "on_time"]
segments = ["carrier"]
[models.alpha.features]
amount = "number"
hour = "number"
carrier = "category"
[models.alpha.learner]
kind = "hgb"
max_iter = 15
[models.alpha.triggers]
first_labels = 500
volume = {volume}
cooldown = "20s"
[models.alpha.window]
max_rows = 3000
labels_after_change = 300
follow_ups = [600]
[models.alpha.serving]
fallback = "on_time"
"""
_RIVER_MODEL = """
[models.{model}]
{answers}
[models.{model}.features]
amount = "number"
hour = "number"
[models.{model}.learner]
kind = "river"
[models.{model}.triggers]
first_labels = 500
cooldown = "{cooldown}"
[models.{model}.window]
max_rows = 2000
labels_after_change = 300
follow_ups = [600]
[models.{model}.serving]
fallback = {fallback}
"""
_TWO_CLASSES = 'classes = ["late", "on_time"]'


@dataclass(frozen=True, slots=True)
class Run:
    """What a run is asked to be."""

    folder: Path
    seed: int
    faults: int
    seconds: float
    rate: float
    horizon_s: float
    early_s: float
    data_partitions: int
    model_partitions: int
    network: bool = False  # faults of the network, of clocks and of disks too
    catch_up_s: float = 2_400.0  # a backlog of hours on a busy machine

    @property
    def windows(self) -> Windows:
        horizon_ms = int(self.horizon_s * 1000)
        return Windows(horizon_ms, int(self.early_s * 1000), horizon_ms)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def settings(self, bootstrap: str) -> Settings:
        return Settings(
            bootstrap_servers=bootstrap,
            topic_prefix="soak.",
            state_dir=self.state_dir,
            data_partitions=self.data_partitions,
            model_partitions=self.model_partitions,
        )

    def partitions(self) -> dict[str, int]:
        return {
            topic.name: self.data_partitions if topic.plane == "data" else self.model_partitions
            for topic in CATALOGUE
        }


def publish(run: Run, settings: Settings) -> Connection:
    """Topics and specs."""
    connection = settings.connection()
    apply_topics(connection, data_partitions=run.data_partitions, model_partitions=run.model_partitions)
    volume = max(3_000, int(run.rate * 15))
    text = _TOML.format(horizon_s=run.horizon_s, early_s=run.early_s, volume=volume)
    text += _RIVER_MODEL.format(model="beta", answers=_TWO_CLASSES, cooldown="20s", fallback='"on_time"')
    text += _RIVER_MODEL.format(model="gamma", answers='task = "regression"', cooldown="30s", fallback=0.0)
    apply_deployment(connection, parse_deployment(text))
    return connection


class Stage:
    """Starts the roles."""

    def __init__(
        self, run: Run, settings: Settings, folder: Path, bootstrap: str, clocks: MovedClocks | None = None
    ) -> None:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]
        environment = {
            "DRIFTLOOP_BOOTSTRAP_SERVERS": bootstrap,
            "DRIFTLOOP_STATE_DIR": str(run.state_dir),
            "DRIFTLOOP_TOPIC_PREFIX": settings.topic_prefix,
            "DRIFTLOOP_CHECKPOINT_INTERVAL_S": "20",  # so that joiners without state find one
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(folder, environment)
        self._clocks = clocks
        self.ports = [_free_port() for _ in range(SERVERS)]

    def start(self) -> None:
        for name in JOINERS:
            self.start_joiner(name)
        for name in MONITORS:
            self._add(name, "monitor")
        self._add("train-0", "train")
        self.start_servers()

    def start_servers(self) -> None:
        for index, port in enumerate(self.ports):
            self._add(f"serve-{index}", "serve", "--port", str(port))

    def wait_ready(self, deadline_s: float) -> None:
        """Wait until every server is ready."""
        wait_for(
            lambda: all(health(port, "ready") == 200 for port in self.ports), deadline_s,
            "the servers are ready", self.processes.tick,
        )  # fmt: skip

    def start_joiner(self, name: str) -> None:
        self._add(name, "join")

    def _add(self, name: str, *arguments: str) -> None:
        extra = None if self._clocks is None else self._clocks.environment(name)
        self.processes.add(name, "driftloop", *arguments, extra=extra)


def load_command(run: Run, settings: Settings) -> list[str]:
    """The load generator's process."""
    return [
        sys.executable, "-m", "tests.soak.traffic.load", str(run.folder), settings.bootstrap_servers or "",
        settings.topic_prefix, "--seed", str(run.seed), "--rate", str(run.rate),
        "--start-ms", str(int(time.time() * 1000)), "--late-s", str(run.horizon_s * 1.2),
        "--partitions", str(run.data_partitions),
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
