"""The whole loop, each process killed mid-stream: nothing lost, nothing repeated, nothing forked."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from driftloop.infra.demo import run as demo
from driftloop.infra.demo.barrier import Barrier
from driftloop.infra.demo.driver import Driver, HttpShare
from driftloop.infra.demo.flights import Flights, load_flights
from driftloop.infra.demo.ledger import compare
from driftloop.infra.demo.live import Picture
from driftloop.infra.demo.loop_view import LoopView
from driftloop.infra.deployment import loop_roles, prepared_cluster, server_role
from driftloop.infra.settings import Settings
from driftloop.infra.supervisor import Supervisor
from driftloop.infra.wiring import follow_parts
from driftloop.schemas.spec.file import parse_deployment
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.hot.model import LiveModel

from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

DAYS = 4
TOML = """
[models.flights]
classes = ["late", "on_time"]
segments = ["carrier"]
[models.flights.learner]
kind = "hgb"
max_iter = 20
[models.flights.triggers]
first_labels = 1200
volume = 900
cooldown = "1h"
[models.flights.window]
max_rows = 4000
[models.flights.serving]
fallback = "on_time"
"""


@pytest.fixture(scope="module")
def flights() -> Flights:
    return load_flights()


class Killer:
    """Kills each role once: the trainer while it trains, the others at given hours of the stream."""

    def __init__(self, supervisor: Supervisor, view: LoopView) -> None:
        self._supervisor, self._view = supervisor, view
        self._hours = 0
        self._planned = {20: "join", 40: "monitor", 60: "join", 70: "monitor"}
        self.killed: list[str] = []

    def hour(self) -> None:
        self._hours += 1
        if self._hours in self._planned:
            self._kill(self._planned[self._hours])

    def idle(self) -> None:
        self._supervisor.watch()
        if "train" not in self.killed and any(run.status == "training" for run in self._view.runs.values()):
            self._kill("train")

    def _kill(self, role: str) -> None:
        os.kill(self._supervisor.pid(role), signal.SIGKILL)
        self.killed.append(role)


@pytest.fixture
def killed_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"clock": "event", "http_port": demo._free_port()})


def test_every_role_may_be_killed_mid_stream_and_the_server_at_rest(
    killed_settings: Settings, flights: Flights, tmp_path: Path
) -> None:
    said: list[str] = []
    with ExitStack() as stack:
        deployment = parse_deployment(TOML)
        settings = stack.enter_context(prepared_cluster(killed_settings, deployment)).settings
        connection, view = settings.connection(), LoopView(settings.topic_prefix)
        supervisor = Supervisor(
            (*loop_roles(settings), server_role(settings, ("flights",))),
            lambda role, line: said.append(f"{role}: {line}"),
        )
        stack.callback(supervisor.stop)
        supervisor.start()
        killer = Killer(supervisor, view)
        client = stack.enter_context(EventClient(connection))
        scorer = stack.enter_context(LiveModel("flights", follow_parts(settings, "scorer", None), client))
        share = HttpShare(settings.http_host, settings.http_port, "flights")
        stack.callback(share.close)
        barrier = Barrier(connection, view, servers=2, idle=killer.idle, deadline_s=120)
        stack.callback(barrier.close)
        demo._await_server(settings, killer.idle)
        assert scorer.wait_ready(60), scorer.why_not
        driver = Driver(flights, scorer, client, share, barrier, Picture(view, DAYS), killer.hour)

        try:
            driver.run(DAYS)
        except Exception as error:
            raise AssertionError("\n".join(said[-40:])) from error
        served = demo._served_version(settings)
        os.kill(supervisor.pid("serve"), signal.SIGKILL)
        first = supervisor.pid("serve")

        def restarted() -> bool:
            supervisor.watch()
            return supervisor.pid("serve") != first

        wait_until(restarted, "the server to be restarted")
        demo._await_server(settings, supervisor.watch)
        assert demo._served_version(settings) == served == scorer.version == view.version >= 1
        assert set(killer.killed) == {"join", "monitor", "train"}

        found = compare(connection, driver.ledger, flights.prediction_ids)
        assert (found.lost, found.duplicated) == (0, 0)
        assert found.outcomes == found.labels
        assert share.requests.failed == 0, share.requests.failures[:3]
        assert_no_forks(view)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("demo-http")]


def assert_no_forks(view: LoopView) -> None:
    """Generations and versions without a gap; one promoted run for each automatic version."""
    generations = sorted({update.event.generation for update in view.updates})
    assert generations == list(range(1, len(generations) + 1))
    assert len({u.event.generation: u.event.encode() for u in view.updates}) == len(
        {u.event.encode() for u in view.updates}
    )
    versions = [run.version for run in view.runs.values() if run.status == "promoted"]
    assert sorted(versions) == list(range(1, len(versions) + 1))
