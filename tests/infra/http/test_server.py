"""The reference server answers, refuses with a reason, swaps under load and stops cleanly."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from driftloop.infra.http.app import Draining, create_app
from driftloop.infra.http.bodies import MAX_BATCH_ROWS
from driftloop.infra.http.server import run_server
from driftloop.infra.metrics import catalogue as metrics
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import SettingsError
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.hot.model import LiveModel

from tests.support.meanwhile import meanwhile
from tests.support.paths import DOCS
from tests.support.serve.bench import ServingBench, version_of_answer
from tests.support.serve.process import uvicorn_thread
from tests.support.waiting import wait_until


@dataclass
class Running:
    """A server in this process, and a way to ask it."""

    http: httpx.Client
    models: dict[str, LiveModel]
    client: EventClient
    draining: Draining

    def post(self, path: str, body: Any, status: int = 200) -> dict[str, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body)
        answer = self.http.post(path, content=content)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()


@contextmanager
def running(benches: Sequence[ServingBench]) -> Iterator[Running]:
    """The app on a real socket, served by uvicorn from a thread."""
    with ExitStack() as stack:
        client = stack.enter_context(EventClient(benches[0].connection))
        models = {bench.model: stack.enter_context(bench.serve(client)) for bench in benches}
        draining = Draining()
        app = create_app(tuple(models.values()), client, draining=draining)
        port = stack.enter_context(uvicorn_thread(app))
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}"))
        yield Running(http, models, client, draining)


@pytest.fixture
def server(bench: ServingBench) -> Iterator[Running]:
    """One model, version 3 live."""
    bench.publish(bench.update(1, 3))
    with running([bench]) as started:
        assert started.models["m"].wait_ready()
        yield started


def test_a_prediction_is_answered_and_emitted(server: Running, bench: ServingBench) -> None:
    answer = server.post(
        "/predict",
        {"model": "m", "prediction_id": "mine", "ts": 1_700_000_000_000, "features": {"x": 2.5, "o": None},
         "segments": {"hub": "JFK"}},
    )  # fmt: skip
    assert answer.pop("latency_ms") > 0
    assert answer == {
        "prediction_id": "mine", "model": "m", "version": 3, "prediction": 3002.5, "role": "champion",
    }  # fmt: skip
    unnamed = server.post("/predict", {"features": {"x": 1}})
    server.client.flush()
    events = {event.prediction_id: event for event in bench.predictions()}
    assert events.keys() == {"mine", unnamed["prediction_id"]}
    assert (events["mine"].ts, events["mine"].segments) == (1_700_000_000_000, {"hub": "JFK"})
    assert events["mine"].features == {"x": 2.5, "o": None}


def test_a_batch_is_answered_row_by_row(server: Running) -> None:
    rows: list[dict[str, Any]] = [{"features": {"x": float(i)}, "prediction_id": f"p{i}"} for i in range(50)]
    rows[7]["features"] = {"x": "wide"}
    answers = server.post("/predict/batch", {"rows": rows})["answers"]
    assert [answer["prediction_id"] for answer in answers] == [f"p{i}" for i in range(50)]
    assert answers[3]["prediction"] == 3003.0
    assert "feature x: must be a number" in answers[7]["error"]
    assert server.post("/predict/batch", {"rows": []}) == {"answers": []}


def test_feedback_in_every_form_becomes_a_label(server: Running, bench: ServingBench) -> None:
    for known, said in {
        "truth": {"label": "late", "ts": 5},
        "number": {"label": 2.5, "source": "expert", "annotator": "ann"},
        "no": {"label": False},
        "feedback": {"correct": False},
        "up": {"thumbs": "up"},
        "down": {"thumbs": "down", "source": "clerk"},
    }.items():
        assert server.post("/feedback", {"prediction_id": known, **said}, 202) == {"prediction_id": known}
    server.client.flush()
    labels = {event.prediction_id: event for event in bench.labels()}
    assert {
        known: (event.label, event.correct, event.source, event.annotator) for known, event in labels.items()
    } == {
        "truth": ("late", None, "system", None),
        "number": (2.5, None, "expert", "ann"),
        "no": (False, None, "system", None),
        "feedback": (None, False, "user", None),
        "up": (None, True, "user", None),
        "down": (None, False, "clerk", None),
    }
    assert labels["truth"].ts == 5


BAD: list[tuple[str, Any, int, str]] = [
    ("/predict", b"", 422, "body: the record: Invalid JSON"),
    ("/predict", b'{"features":', 422, "Invalid JSON"),
    ("/predict", b'{"features":{"x":NaN}}', 422, "feature x: is nan"),
    ("/predict", b'{"features":{"x":1e999}}', 422, "feature x: is inf"),
    ("/predict", b'{"features":{"x":"\xff"}}', 422, "Invalid JSON"),
    ("/predict", gzip.compress(b'{"features":{"x":1}}', mtime=0), 422, "it is compressed with gzip"),
    ("/predict", b"{'features': {'x': 1}}", 422, "single quotes"),
    ("/predict", b'{"features":{"x":None}}', 422, "features.x (at 17) is None, Python's None: write null"),
    ("/predict", b"[" * 5000, 422, "Invalid JSON"),
    ("/predict", b'{"features":{"x":' + b"[" * 5000, 422, "Invalid JSON"),
    ("/predict", [], 422, "body: "),
    ("/predict", {}, 422, "body: features: Field required"),
    ("/predict", {"features": 5}, 422, "body: features: "),
    ("/predict", {"features": {"x": "wide"}}, 422, "feature x: must be a number"),
    ("/predict", {"features": {"x": [1]}}, 422, "feature x: must be a number, text, bool or None"),
    ("/predict", {"features": {"x": {"deep": {"er": 1}}}}, 422, "got dict"),
    ("/predict", {"features": {"x": 10**30}}, 422, "does not fit into 64 bits"),
    ("/predict", {"features": {"x": 1}, "feature": {}}, 422, "body: feature: Extra inputs"),
    ("/predict", {"features": {"x": 1}, "prediction_id": ""}, 422, "prediction_id must be text"),
    ("/predict", {"features": {"x": 1}, "prediction_id": "i" * 129}, 422, "prediction_id must be text"),
    ("/predict", {"features": {"x": 1}, "prediction_id": 5}, 422, "body: prediction_id"),
    ("/predict", {"features": {"x": 1}, "ts": 1.5}, 422, "body: ts"),
    (
        "/predict",
        {"features": {"x": 1}, "ts": 1_700_000_000},
        422,
        "ts is in seconds (2023-11-14 22:13:20 UTC)",
    ),
    ("/predict", {"features": {"x": 1}, "ts": 1_700_000_000_000_000}, 422, "ts is in microseconds"),
    ("/predict", {"features": {"x": 1}, "ts": 17 * 10**17}, 422, "ts is in nanoseconds"),
    ("/predict", {"features": {"x": 1}, "ts": "2023-11-14T22:13:20Z"}, 422, "as a number: 1700000000000 for"),
    ("/feedback", {"prediction_id": "p", "label": 1, "ts": 1_700_000_000}, 422, "ts is in seconds"),
    ("/feedback", {"prediction_id": "p", "label": 1, "ts": 1.7e9}, 422, "body: ts: must be Unix time"),
    ("/predict", {"features": {"x": 1}, "ts": -4}, 422, "ts must be Unix time"),
    ("/predict", {"features": {"x": 1}, "segments": {"s": []}}, 422, "segment s: must be"),
    (
        "/predict",
        {"features": {"x": 1}, "model": "other"},
        404,
        "no model 'other' here: this server serves m",
    ),
    ("/predict", {"features": {"x": "y" * 2_000_000}}, 413, "larger than the 1048576 bytes"),
    ("/predict/batch", {"rows": [{"features": {}}] * (MAX_BATCH_ROWS + 1)}, 422, "body: rows: "),
    ("/predict/batch", {"rows": {}}, 422, "body: rows"),
    ("/feedback", {"prediction_id": "p"}, 422, "exactly one of label, correct and thumbs"),
    ("/feedback", {"prediction_id": "p", "label": "a", "thumbs": "up"}, 422, "exactly one of"),
    ("/feedback", {"prediction_id": "p", "thumbs": "sideways"}, 422, "body: thumbs"),
    ("/feedback", {"prediction_id": "p", "label": ["a"]}, 422, "body: label"),
    ("/feedback", b'{"prediction_id":"p","label":NaN}', 422, "argument label: is nan"),
    ("/feedback", {"prediction_id": "", "label": "a"}, 422, "prediction_id must be text"),
    ("/feedback", {"prediction_id": "p", "label": "a", "source": "s" * 65}, 422, "source must have"),
]


def test_a_bad_request_is_refused_with_what_is_wrong_and_the_next_is_answered(server: Running) -> None:
    for path, body, status, message in BAD:
        answer = server.post(path, body, status)
        emitted = message.startswith(("feature ", "segment ", "got dict", "does not fit"))
        assert answer.keys() == ({"prediction_id", "error"} if emitted else {"error"}), message
        assert message in answer["error"], (path, str(body)[:80])
        assert server.post("/predict", {"features": {"x": 0.0}})["version"] == 3


def test_a_large_body_is_refused_before_it_is_read_whole(server: Running) -> None:
    address = (server.http.base_url.host, server.http.base_url.port or 0)
    with socket.create_connection(address, timeout=20) as sender:  # chunked: nothing declares the length
        sender.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2):
            sender.sendall(b"%x\r\n" % 1_000_000 + b"x" * 1_000_000 + b"\r\n")
        assert sender.recv(1000).startswith(b"HTTP/1.1 413 ")  # the body has not ended
    assert server.post("/predict", {"features": {"x": 0.0}})["version"] == 3


def test_what_serves_is_described(server: Running, bench: ServingBench) -> None:
    described = server.get("/model")
    assert {key: described[key] for key in ("name", "version", "refresh", "generation", "can_answer")} == {
        "name": "m", "version": 3, "refresh": 0, "generation": 1, "can_answer": True,
    }  # fmt: skip
    assert described["manifest"]["artifact_sha256"] == bench.manifests[3].artifact_sha256
    assert described["features"] == {"x": "number"}
    assert server.get("/models") == {"models": [described]}
    assert server.get("/model?model=m") == described
    assert "this server serves m" in server.get("/model?model=other", 404)["error"]
    schema = server.get("/openapi.json")
    body = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "features" in body["properties"]
    assert "$ref" not in json.dumps(schema["paths"]["/predict/batch"])


def test_readiness_says_why_not(bench: ServingBench, server: Running) -> None:
    assert server.get("/health/live") == {"status": "live"}
    ready = server.get("/health/ready")
    assert (ready["ready"], ready["why"], ready["models"]["m"]["version"]) == (True, [], 3)
    bench.publish(bench.update(2, None))
    assert server.models["m"].wait_generation(2)
    answer = server.get("/health/ready", 503)
    assert answer["why"] == ["m: no version is live yet, and the spec has no fallback"]
    failed = server.http.post("/predict", content=b'{"features":{"x":1}}')
    assert (failed.status_code, failed.headers["retry-after"]) == (503, "5")
    assert "no live version yet" in failed.json()["error"]
    batch = server.post("/predict/batch", {"rows": [{"features": {"x": 1}}, {"features": {"x": 2}}]}, 503)
    assert "no live version" in batch["error"]
    assert [row["error"] for row in batch["answers"]] == [batch["error"]] * 2
    ids = [row["prediction_id"] for row in (failed.json(), *batch["answers"])]
    assert server.post("/feedback", {"prediction_id": ids[0], "label": 2.0}, 202)["prediction_id"] == ids[0]
    server.client.flush()
    events = {event.prediction_id: event for event in bench.predictions()}
    assert [(events[one].features, events[one].error) for one in ids] == [
        ({"x": 1}, "no model"), ({"x": 1}, "no model"), ({"x": 2}, "no model"),
    ]  # fmt: skip
    bench.apply_spec(serving={"fallback": 7.0})
    wait_until(lambda: server.http.get("/health/ready").status_code == 200)
    assert server.post("/predict", {"features": {"x": 1}})["prediction"] == 7.0
    server.draining.on = True
    assert server.get("/health/ready", 503)["why"] == ["the server is stopping"]


def test_a_server_that_cannot_follow_says_so_while_it_serves(bench: ServingBench) -> None:
    with EventClient(bench.connection) as client, bench.serving(client, bench.update(1, 2)):
        pass
    away = Connection("127.0.0.1:1", bench.connection.prefix, {"log_level": "0"})
    other = ServingBench(bench.connection, bench.keys_dir.parent)
    other.connection = away
    with running([other]) as server:
        assert server.models["m"].wait_ready()
        assert server.post("/predict", {"features": {"x": 1.0}})["version"] == 2
        wait_until(lambda: "cannot reach Kafka" in server.get("/health/ready", 503)["why"][0])
        server.client.close(timeout_s=0.1)


def test_several_models_are_chosen_by_name(bench: ServingBench, tmp_path: Path) -> None:
    other = ServingBench(bench.connection, tmp_path, model="n")
    bench.publish(bench.update(1, 1))
    other.publish(other.update(1, 2))
    with running([bench, other]) as server:
        assert all(hot.wait_ready() for hot in server.models.values())
        assert server.post("/predict", {"model": "m", "features": {"x": 0.0}})["version"] == 1
        assert server.post("/predict", {"model": "n", "features": {"x": 0.0}})["version"] == 2
        message = server.post("/predict", {"features": {"x": 0.0}}, 422)["error"]
        assert message == "say which model: this server serves m, n"
        assert [model["name"] for model in server.get("/models")["models"]] == ["m", "n"]


def test_metrics_show_what_happened(server: Running) -> None:
    for _ in range(3):
        server.post("/predict", {"features": {"x": 1.0}})
    server.post("/predict", {"features": {"x": []}}, 422)
    text = server.http.get("/metrics").text
    assert 'driftloop_http_requests_total{model="m",path="/predict",status="200"} 3.0' in text
    assert 'driftloop_http_requests_total{model="",path="/predict",status="422"} 1.0' in text
    assert 'driftloop_answers_total{model="m",role="champion",version="3"} 3.0' in text
    assert 'driftloop_live_version{model="m"} 3.0' in text
    assert "driftloop_events_emitted_total 4.0" in text
    assert 'driftloop_http_request_seconds_count{model="m",path="/predict"} 3.0' in text
    shown = set(re.findall(r"^# HELP (\w+) ", text, re.MULTILINE))
    named = {meter.name for meter in metrics.SERVER_METERS}
    assert {name for name in shown if not name.endswith("_created")} == named


def test_the_metrics_page_is_the_catalogue() -> None:
    page = DOCS / "metrics.md"
    assert page.read_text("utf-8") == metrics.catalogue_as_markdown()
    assert len({meter.name for meter in metrics.CATALOGUE}) == len(metrics.CATALOGUE)


def test_swaps_under_load_fail_no_request(server: Running, bench: ServingBench) -> None:
    outcomes: list[tuple[int, dict[str, Any]]] = []

    def ask() -> None:
        answer = server.http.post("/predict", content=b'{"features":{"x":0}}')
        outcomes.append((answer.status_code, answer.json()))

    with meanwhile(ask, threads=3):
        for generation in range(2, 10):
            seen = len(outcomes)
            bench.publish(bench.update(generation, 1 + generation % 3))
            assert server.models["m"].wait_generation(generation)
            wait_until(lambda seen=seen: len(outcomes) > seen + 10)
    assert {status for status, _ in outcomes} == {200}
    assert all(version_of_answer(answer["prediction"]) == answer["version"] for _, answer in outcomes)
    assert {answer["version"] for _, answer in outcomes} == {1, 2, 3}


def test_an_address_that_is_taken_is_an_error(settings: Settings, server: Running) -> None:
    taken = int(server.http.base_url.port or 0)
    with pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1:{taken}: .*DRIFTLOOP_HTTP_PORT"):
        run_server(settings.model_copy(update={"http_port": taken}), ["m"])
