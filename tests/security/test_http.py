"""The reference server answers whom it should, and neither strangers nor bombs get further than its door."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from driftloop.infra.cluster.topics import apply_topics
from driftloop.infra.http import limits as http_limits
from driftloop.infra.http.auth import Guard
from driftloop.infra.http.bodies import MAX_BODY_BYTES
from driftloop.infra.http.limits import MAX_HEAD_BYTES, LimitedHttp
from driftloop.infra.http.tokens import SCOPES, FollowedTokens, Scope, TokenFile, Tokens
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import Error
from starlette.types import Receive, Send
from starlette.types import Scope as HttpScope

from tests.support.cli import driftloop
from tests.support.serve.bench import ServingBench
from tests.support.serve.process import server_process, uvicorn_thread, wait_ready
from tests.support.serve.tokens import GOOD, all_tokens
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

PATHS: list[tuple[str, str, Scope]] = [
    ("POST", "/predict", "predict"),
    ("POST", "/predict/batch", "predict"),
    ("POST", "/feedback", "feedback"),
    ("GET", "/model", "admin"),
    ("GET", "/models", "admin"),
    ("GET", "/metrics", "admin"),
    ("GET", "/openapi.json", "admin"),
    ("GET", "/docs", "admin"),
    ("GET", "/nothing/here", "admin"),
    ("POST", "/predict/", "admin"),
    ("POST", "//predict", "admin"),
]


# --- the door, with a real server behind it -------------------------------------------------------------


@dataclass
class Door:
    """A server whose app says yes to everything that the guard lets through."""

    port: int
    passed: list[str]

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers |= more.pop("headers", {})
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers=headers, timeout=10, **more)

    def raw(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connected.settimeout(10)
        return connected


@contextmanager
def door(tokens: FollowedTokens) -> Iterator[Door]:
    passed: list[str] = []

    async def app(scope: HttpScope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with uvicorn_thread(Guard(app, tokens), http=LimitedHttp, ws="none", server_header=False) as port:
        yield Door(port, passed)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(FollowedTokens(TokenFile(tmp_path_factory.mktemp("keys")), all_tokens())) as running:
        yield running


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(FollowedTokens(TokenFile(tmp_path_factory.mktemp("no-keys")))) as running:
        yield running


@pytest.mark.parametrize(("method", "path", "needed"), PATHS)
def test_each_path_is_opened_by_its_scope_alone(locked: Door, method: str, path: str, needed: Scope) -> None:
    before = len(locked.passed)
    anybody = locked.ask(method, path)
    assert anybody.status_code == 401
    assert anybody.headers["www-authenticate"].startswith("Bearer")
    assert f"scope {needed}" in anybody.json()["error"]
    assert locked.ask(method, path, "y" * 40).status_code == 401
    for scope in SCOPES:
        if scope != needed:
            assert locked.ask(method, path, GOOD[scope]).status_code == 403
    assert len(locked.passed) == before
    assert locked.ask(method, path, GOOD[needed]).status_code == 200
    assert len(locked.passed) == before + 1


def test_health_is_anybodys(locked: Door) -> None:
    for path in ("/health/live", "/health/ready"):
        assert locked.ask("GET", path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Basic {GOOD['predict']}")],
        [("Authorization", GOOD["predict"])],
        [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {GOOD['predict']}"), ("Authorization", "Bearer x")],
        [("X-Token", GOOD["predict"])],
    ],
)
def test_what_is_not_exactly_one_bearer_token_is_none(locked: Door, headers: list[tuple[str, str]]) -> None:
    url = f"http://127.0.0.1:{locked.port}/predict"
    assert httpx.post(url, headers=headers).status_code == 401
    assert httpx.post(f"{url}?token={GOOD['predict']}").status_code == 401


def test_refusals_and_answers_carry_the_headers_that_keep_browsers_honest(locked: Door) -> None:
    for answer in (locked.ask("POST", "/predict"), locked.ask("POST", "/predict", GOOD["predict"])):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_a_refused_body_is_not_read(locked: Door) -> None:
    with locked.raw() as stranger:
        stranger.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert b" 401 " in stranger.recv(65_536)


def test_without_tokens_a_page_of_another_site_cannot_use_the_browser(unlocked: Door) -> None:
    own = {"Origin": f"http://127.0.0.1:{unlocked.port}"}
    assert unlocked.ask("POST", "/feedback").status_code == 200
    assert unlocked.ask("POST", "/feedback", headers=own).status_code == 200
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{unlocked.port}.evil.example"):
        assert unlocked.ask("POST", "/feedback", headers={"Origin": origin}).status_code == 403


# --- bombs ----------------------------------------------------------------------------------------------


def _response(connected: socket.socket) -> bytes:
    data = b""
    while chunk := connected.recv(65_536):
        data += chunk
    return data


def test_a_head_without_end_is_cut_off(locked: Door) -> None:
    with locked.raw() as attacker:
        attacker.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        sent, far_more = 0, 2048 * MAX_HEAD_BYTES  # than the kernel's buffers take
        try:
            while sent < far_more:
                attacker.sendall(b"X-Pad: " + b"x" * 8_000 + b"\r\n")
                sent += 8_009
            message = _response(attacker)
        except OSError:  # it was closed while we were sending
            message = b" 400 "
    assert b" 400 " in message
    assert sent < far_more


@pytest.mark.parametrize("part", [b"X-Pad: %b\r\n", b"%b"])
def test_a_head_that_is_too_large_is_refused(locked: Door, part: bytes) -> None:
    pad = part % (b"x" * MAX_HEAD_BYTES)
    with locked.raw() as attacker:
        path = b"/health/live" if b":" in part else b"/" + pad
        head = pad if b":" in part else b""
        attacker.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, head))
        assert b" 400 " in _response(attacker)
    assert locked.ask("GET", "/health/live").status_code == 200


def test_a_request_that_never_ends_is_ended(locked: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "MAX_REQUEST_S", 0.2)
    for sent in (b"", b"GET /health", b"GET /health/live HTTP/1.1\r\nHost: x\r\n"):
        with locked.raw() as slow:
            slow.sendall(sent)
            assert b" 408 " in _response(slow)
    monkeypatch.undo()
    assert locked.ask("GET", "/health/live").status_code == 200


class Public(NamedTuple):
    """``driftloop serve`` on all addresses, with a token of each scope."""

    address: str
    bench: ServingBench
    tokens: dict[Scope, str]

    def post(self, path: str, scope: Scope | None, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.address}{path}", headers=self.bearer(scope), timeout=120, **body)

    def bearer(self, scope: Scope | None) -> dict[str, str]:
        return {} if scope is None else {"Authorization": f"Bearer {self.tokens[scope]}"}


@pytest.fixture(scope="module")
def served(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Public]:
    settings = Settings(
        bootstrap_servers=broker, topic_prefix="guarded.", state_dir=tmp_path_factory.mktemp("served")
    )
    connection = settings.connection()
    apply_topics(connection, data_partitions=1, model_partitions=1)
    bench = ServingBench(connection, settings.state_dir)
    bench.apply_spec()
    bench.publish(bench.update(1, 1))
    tokens: dict[Scope, str] = {scope: TokenFile(bench.keys_dir).add(scope, scope) for scope in SCOPES}
    with server_process(settings, "m", "--host", "0.0.0.0") as (_, address):
        wait_ready(address)
        yield Public(address, bench, tokens)


def test_a_public_server_answers_only_requests_with_tokens(served: Public) -> None:
    bench = served.bench

    def status(path: str, scope: Scope | None, body: dict[str, Any]) -> int:
        return served.post(path, scope, json=body).status_code

    body = {"features": {"x": 1.0}, "prediction_id": "asked"}
    assert status("/predict", None, body) == 401
    assert served.post("/predict", "predict", json=body).json()["prediction"] == 1001.0
    message = {"prediction_id": "asked", "label": 3}
    assert status("/feedback", "predict", message) == 403
    assert status("/feedback", "feedback", message) == 202
    metrics = f"{served.address}/metrics"
    assert httpx.get(metrics, headers=served.bearer("predict")).status_code == 403
    assert "driftloop" in httpx.get(metrics, headers=served.bearer("admin")).text
    wait_until(lambda: len(bench.predictions()) == 1 and len(bench.labels()) == 1)
    TokenFile(bench.keys_dir).revoke("predict")
    wait_until(lambda: status("/predict", "predict", body) == 401)
    served.tokens["predict"] = TokenFile(bench.keys_dir).add("predict", "predict")
    wait_until(lambda: status("/predict", "predict", body) == 200)


BOMBS: list[bytes] = [
    b"[" * (MAX_BODY_BYTES - 1),
    b'{"features":' * 80_000,
    b'{"features":{"x":' + b"[" * 500_000 + b"]" * 500_000 + b"}}",
    b'{"features":{"x":' + b"9" * 1_000_000 + b"}}",
    b'{"features":{"x":1e' + b"9" * 1_000_000 + b"}}",
    b'{"features":{"x":1},"prediction_id":"' + b"a" * 1_000_000 + b'"}',
    b'{"features":{"x":"' + b"\\u0000" * 160_000 + b'"}}',
    b'{"features":{"x":"\\ud800"}}',
    b"\xff\xfe" * 500_000,
    b" " * MAX_BODY_BYTES,
    b"x" * (MAX_BODY_BYTES + 1),
]


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_a_bomb_of_json_is_refused_at_once_and_the_server_goes_on(served: Public, number: int) -> None:
    with Stopwatch() as watch:
        answer = served.post("/predict", "predict", content=BOMBS[number])
    assert answer.status_code in (413, 422), answer.text[:200]
    assert len(answer.content) < 2_000
    assert watch.seconds < 5
    assert served.post("/predict", "predict", json={"features": {"x": 1.0}}).status_code == 200


def test_very_many_features_are_answered_or_refused_in_bounded_time(served: Public) -> None:
    content = b'{"features":{"x":1,' + b",".join(b'"f%d":1' % n for n in range(90_000)) + b"}}"
    with Stopwatch() as watch:
        answer = served.post("/predict", "predict", content=content)
    assert answer.status_code in (200, 413, 422), answer.text[:200]
    assert watch.seconds < 5


def test_the_command_line_makes_lists_and_revokes_tokens(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    file = TokenFile(settings.keys_path())
    made = driftloop("tokens", "new", "predict", "--name", "shop", settings=settings)
    token = made.stdout.strip()  # nothing else is there, so it can be piped
    assert Tokens(file.read()).scopes_of(token) == {"predict"}
    listed = driftloop("tokens", "list", settings=settings).stdout
    assert "shop" in listed
    assert token not in listed + made.stderr
    assert "revoked" in driftloop("tokens", "revoke", "shop", settings=settings).stdout
    assert file.read() == []
    assert isinstance(driftloop("tokens", "revoke", "shop", settings=settings).exception, Error)
