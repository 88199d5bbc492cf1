"""`driftloop serve` as a process: it stops, is killed, comes back, and says what is in its way."""

from __future__ import annotations

import asyncio
import runpy
import signal
import time
from typing import Any

import httpx
import pytest
from driftloop.infra.http.server import run_server
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import SpecError
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.hot.model import LiveModel

from tests.support.meanwhile import meanwhile
from tests.support.paths import ROOT
from tests.support.serve.bench import ServingBench
from tests.support.serve.process import server_process, wait_ready
from tests.support.stopwatch import stopped
from tests.support.waiting import wait_until


def test_a_stop_ends_what_is_under_way_and_sends_all_events_within_five_seconds(
    bench: ServingBench, settings: Settings
) -> None:
    bench.publish(bench.update(1, 2))
    answered: list[str] = []
    with server_process(settings, "m") as (server, address):
        wait_ready(address)
        with httpx.Client(base_url=address) as http:
            timed = sorted([_timed(http) for _ in range(60)][20:])
        # With Nagle's algorithm on, every request of a kept-alive connection but the first waits for 40 ms.
        assert timed[10] < 0.035

        def ask() -> None:
            try:
                answer = http.post("/predict", content=b'{"features":{"x":0}}')
            except httpx.TransportError:  # it no longer listens
                enough.set()
                return
            assert answer.status_code == 200
            answered.append(answer.json()["prediction_id"])

        with httpx.Client(base_url=address) as http, meanwhile(ask, threads=3) as enough:
            wait_until(lambda: len(answered) > 200)
            assert stopped(server) < 5.0
    emitted = {event.prediction_id for event in bench.predictions()}
    assert set(answered) <= emitted


def _timed(http: httpx.Client) -> float:
    started = time.perf_counter()
    assert http.post("/predict", content=b'{"features":{"x":0}}').status_code == 200
    return time.perf_counter() - started


def test_a_killed_server_comes_back_with_what_it_served(bench: ServingBench, settings: Settings) -> None:
    bench.apply_spec()
    bench.publish(bench.update(1, 1))
    with server_process(settings) as (server, address):  # no name: all that are published
        wait_ready(address)
        bench.publish(bench.update(2, 2))
        wait_until(lambda: httpx.get(f"{address}/model").json()["generation"] == 2)
        for _ in range(20):
            assert httpx.post(f"{address}/predict", content=b'{"features":{"x":0}}').status_code == 200
        wait_until(lambda: len(bench.predictions()) == 20)
        server.send_signal(signal.SIGKILL)
        server.wait()
    with server_process(settings) as (_, address):
        wait_ready(address)
        assert httpx.get(f"{address}/model").json()["generation"] == 2
        httpx.post(f"{address}/predict", content=b'{"features":{"x":0}}')
        wait_until(lambda: len(bench.predictions()) == 21)
    assert [(ack.version, ack.status) for ack in bench.acks()][-1] == (2, "live")
    assert {ack.server_id for ack in bench.acks()} == {"serve-0"}


def test_a_server_without_a_published_spec_says_what_to_do(settings: Settings, topics: Connection) -> None:
    with pytest.raises(SpecError, match="publish it with `driftloop apply`"):
        run_server(settings, [])


@pytest.mark.usefixtures("in_environment")
def test_the_readmes_server_serves(topics: Connection, settings: Settings) -> None:
    late = ServingBench(topics, settings.state_dir, model="late")
    late.publish(late.update(1, 4))
    example = runpy.run_path(str(ROOT / "examples" / "own_server.py"))
    hot: LiveModel = example["late"]
    client: EventClient = example["client"]
    try:
        assert hot.wait_ready()
        transport = httpx.ASGITransport(app=example["app"])
        asked = _ask(transport, "/flights", {"x": 2.0})
        assert (asked["answer"], asked["version"]) == (4002.0, 4)
        _ask(transport, f"/landed?id={asked['id']}&late=true", None)
    finally:
        hot.close()
        client.close()
    (prediction,) = late.predictions()
    (label,) = late.labels()
    assert prediction.prediction_id == label.prediction_id == asked["id"]
    assert label.label == "late"


def _ask(transport: httpx.ASGITransport, path: str, body: Any) -> Any:
    async def ask() -> Any:
        async with httpx.AsyncClient(transport=transport, base_url="http://own") as http:
            answer = await http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

    return asyncio.run(ask())
