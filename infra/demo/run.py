"""``driftloop demo``: the whole loop on a year of real flights, with real Kafka and real HTTP."""

from __future__ import annotations

import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.panel import Panel

from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import load_verifier
from ...schemas.errors import Error
from ...schemas.spec.file import parse_deployment
from ...streams.serve.client import EventClient
from ...streams.serve.hot.follower import FollowParts
from ...streams.serve.hot.model import LiveModel
from ..deployment import Prepared, loop_roles, prepared_cluster, server_role
from ..settings import Settings
from ..supervisor import Supervisor
from .barrier import Barrier
from .driver import Driver, HttpShare
from .flights import DAY_MS, Flights, load_flights
from .ledger import compare
from .live import Picture, Screen, render
from .loop_view import LoopView
from .report import build_report, compare_accuracies, table
from .svg import save_svg

MODEL = "flights"
SERVERS = 2  # the reference server and the scorer
READY_S = 90.0


class DemoFailed(Error):
    """The demo ended, but a promise was not kept; the report says which."""


def run_demo(
    settings: Settings,
    console: Console,
    *,
    race: bool = False,
    days: int | None = None,
    svg: Path | None = None,
) -> Path:
    """Run the demo and return the path of report.json. Raise DemoFailed when a promise was not kept."""
    started = time.monotonic()
    folder = settings.state_dir / "demo"
    shutil.rmtree(folder, ignore_errors=True)  # a demo begins with an empty log
    folder.mkdir(parents=True)
    console.print("reading a year of flights ...", highlight=False)
    flights = load_flights()
    deployment = parse_deployment(demo_toml(), source="flights.toml")
    demo = settings.model_copy(
        update={"state_dir": folder, "clock": "event", "http_port": _free_port(), "topic_prefix": "demo."}
    )
    console.print("starting Kafka ...", highlight=False)
    with prepared_cluster(demo, deployment) as prepared:
        report, last_view = _play(prepared, flights, console, folder, race=race, days=days, started=started)
    path = folder / "report.json"
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    console.print(table(report))
    if svg is not None:
        save_svg(svg, last_view, table(report), title="make demo")
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    _check(report)
    return path


def demo_toml() -> str:
    """The demo's driftloop.toml."""
    return resources.files(__package__ or "driftloop.infra.demo").joinpath("flights.toml").read_text("utf-8")


def _play(
    prepared: Prepared,
    flights: Flights,
    console: Console,
    folder: Path,
    *,
    race: bool,
    days: int | None,
    started: float,
) -> tuple[dict[str, Any], Panel]:
    settings = prepared.settings
    connection = settings.connection()
    spec = parse_deployment(demo_toml(), source="flights.toml").models[MODEL]
    store = ArtifactStore(settings.store_url())
    view = LoopView(connection.prefix)
    first, last = int(flights.ts[0]) // DAY_MS, int(flights.label_ms.max()) // DAY_MS
    picture = Picture(view, total_days=days or int(last - first) + 1)
    seconds = {"set_up": time.monotonic() - started}
    with ExitStack() as stack:
        supervisor = stack.enter_context(_roles(settings, folder))
        screen = stack.enter_context(Screen(console, picture))

        def idle() -> None:
            supervisor.watch()
            prepared.tend_broker()
            screen.draw()

        client = stack.enter_context(EventClient(connection))
        verifier = partial(load_verifier, settings.keys_path())
        parts = FollowParts(connection, store, verifier, folder / "scorer", "scorer")
        scorer = stack.enter_context(LiveModel(MODEL, parts, client))
        share = HttpShare(settings.http_host, settings.http_port, MODEL)
        stack.callback(share.close)
        barrier = Barrier(connection, view, servers=SERVERS, idle=idle)
        stack.callback(barrier.close)
        _await_server(settings, idle)
        if not scorer.wait_ready(READY_S):
            raise Error(f"the scorer is not ready after {READY_S:g} s: {scorer.why_not}")
        driver = Driver(flights, scorer, client, share, barrier, picture, idle, race=race)
        streaming = time.monotonic()
        driver.run(days)
        seconds["stream"] = time.monotonic() - streaming
        seconds["held"] = driver.held_s
        seconds |= {f"held for {what}": taken for what, taken in barrier.waited_s.items()}
        live = {"server": _served_version(settings), "scorer": scorer.version, "topic": view.version}
    console.print(
        "comparing the topics with what was sent, and the loop with its baselines ...", highlight=False
    )
    comparing = time.monotonic()
    comparison = compare(connection, driver.ledger, flights.prediction_ids)
    accuracies = compare_accuracies(comparison, view, flights, spec, store, MODEL)
    report = build_report(comparison, view, share.requests, live, accuracies)
    seconds |= {"compare": time.monotonic() - comparing, "all": time.monotonic() - started}
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    if share.requests.failures:
        report["requests"]["failures"] = share.requests.failures[:10]
    return report, render(picture)


@contextmanager
def _roles(settings: Settings, folder: Path) -> Generator[Supervisor]:
    """Joiner, monitor, trainer and server, each with a log file of its own."""
    lock = threading.Lock()

    def say(role: str, line: str) -> None:
        with lock, (folder / f"{role}.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    supervisor = Supervisor((*loop_roles(settings), server_role(settings, (MODEL,))), say)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def _await_server(settings: Settings, idle: Any) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        idle()
        try:
            with urllib.request.urlopen(_url(settings, "/health/ready"), timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise Error(
        f"the reference server is not ready after {READY_S:g} s; see serve.log in {settings.state_dir}"
    )


def _served_version(settings: Settings) -> int:
    with urllib.request.urlopen(_url(settings, f"/model?model={MODEL}"), timeout=10) as answer:
        return int(orjson.loads(answer.read())["version"])


def _url(settings: Settings, path: str) -> str:
    return f"http://{settings.http_host}:{settings.http_port}{path}"


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _check(report: dict[str, Any]) -> None:
    """Raise DemoFailed if the loop broke a promise."""
    broken: list[str] = []
    if report["lost"] or report["duplicated"]:
        broken.append(f"{report['lost']} events lost and {report['duplicated']} duplicated")
    if report["requests"]["failed"]:
        broken.append(f"{report['requests']['failed']} HTTP requests failed")
    if report["live_version"] is None:
        broken.append(f"servers and topic disagree on the live version: {report['live_versions']}")
    if broken:
        raise DemoFailed("; ".join(broken))
