"""HTTP requests to servers under test, and light traffic to both servers of a soak: ``http.jsonl``."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple, cast

import httpx

from tests.soak.traffic.story import CLASSIFIERS

_TIMEOUT_S = 5.0
_BACK_S = 45.0
LABEL_AFTER = 8  # requests later


@dataclass(slots=True)
class RequestCounts:
    """``failed``: while nobody had struck the server; ``refused_while_down``: while somebody had."""

    requests: int = 0
    failed: int = 0
    refused_while_down: int = 0


class Response(NamedTuple):
    """``status``: 0 without an answer. ``reason``: empty where the request succeeded."""

    status: int
    reason: str


class HttpRequests(threading.Thread):
    """Call ``send`` with 0, 1, 2 … until ``end``, with a pause before each."""

    def __init__(self, name: str, pause_s: float, timeout_s: float = _TIMEOUT_S) -> None:
        super().__init__(name=name, daemon=True)
        self._pause_s, self._client = pause_s, httpx.Client(timeout=timeout_s)
        self._stop_asked = threading.Event()

    def send(self, number: int) -> None:
        raise NotImplementedError

    def run(self) -> None:
        with self._client:
            for number in count():
                if self._stop_asked.wait(self._pause_s):
                    return
                self.send(number)

    def post(self, port: int, path: str, body: dict[str, object]) -> Response:
        try:
            answer = self._client.post(f"http://127.0.0.1:{port}{path}", json=body)
        except httpx.HTTPError as error:
            return Response(0, repr(error))
        return Response(answer.status_code, "" if answer.is_success else answer.text[:200] or "no body")

    def end(self) -> None:
        self._stop_asked.set()
        self.join()


def prediction_body(model: str, number: int, name: str) -> dict[str, object]:
    features = {"amount": number % 100 / 100, "hour": number % 24, "carrier": "DL"}
    return {"model": model, "features": features, "prediction_id": name}


def label_body(number: int, name: str) -> dict[str, object]:
    return {"prediction_id": name, "label": "late" if number % 3 else "on_time"}


class Traffic(HttpRequests):
    """Asks each server in turn. ``struck``: whether this server is under a fault."""

    def __init__(
        self, ports: Sequence[int], struck: Callable[[int], bool], folder: Path, pause_s: float = 0.1
    ) -> None:
        super().__init__("traffic", pause_s)
        self._ports, self._struck = ports, struck
        self._file = folder / "http.jsonl"
        self._waiting: deque[tuple[int, dict[str, object]]] = deque()
        self._down_until: dict[int, float] = {}
        self.counts = RequestCounts()
        self.failures: list[str] = []

    def run(self) -> None:
        with self._file.open("w", encoding="utf-8") as self._notes:
            super().run()

    def send(self, number: int) -> None:
        server, name = number % len(self._ports), f"http-{number}"
        body = prediction_body(CLASSIFIERS[number // 2 % 2], number, name)
        if self._ask(server, "/predict", body, id=name):
            self._waiting.append((server, label_body(number, name)))
        if len(self._waiting) > LABEL_AFTER:
            server, label = self._waiting.popleft()
            self._ask(server, "/feedback", label, label_of=label["prediction_id"])

    def _ask(self, server: int, path: str, body: dict[str, object], **of: object) -> bool:
        """Whether the answer was 200; it is noted."""
        struck_before = self._is_down(server)
        at = time.time()
        status, reason = self.post(self._ports[server], path, body)
        self.counts.requests += 1
        if reason:
            if struck_before or self._is_down(server):
                self.counts.refused_while_down += 1
            else:
                self.counts.failed += 1
                self.failures.append(f"server {server} {path} at {at:.3f}: {status} {reason}")
        elif not self._struck(server):
            self._down_until.pop(server, None)
        note = {"server": server, **of, "at": round(at, 3), "status": status, "reason": reason}
        self._notes.write(json.dumps(note) + "\n")
        return status == 200

    def _is_down(self, server: int) -> bool:
        """From a fault until the first answer after it; but a server must be back within its time."""
        now = time.monotonic()
        if self._struck(server):
            self._down_until[server] = now + _BACK_S
        return now < self._down_until.get(server, 0.0)


def health(port: int, what: str) -> int:
    """The status of ``/health/…``; 0 where the server does not answer."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/{what}", timeout=_TIMEOUT_S).status_code
    except httpx.HTTPError:
        return 0


def serving(port: int, model: str) -> tuple[int, int] | None:
    """(generation, version) that a server says it serves; None where it does not answer."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/model", params={"model": model}, timeout=_TIMEOUT_S)
    except httpx.HTTPError:
        return None
    if not answer.is_success:
        return None
    body = cast("dict[str, int]", answer.json())
    return body["generation"], body["version"]
