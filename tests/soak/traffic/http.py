"""Light HTTP traffic to both servers, each answer noted: ``http.jsonl``."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx

from tests.soak.traffic.story import CLASSIFIERS

_TIMEOUT_S = 5.0
_BACK_S = 45.0
_LABEL_AFTER = 8  # requests later


@dataclass(slots=True)
class Counts:
    """``failed``: while nobody had struck the server; ``refused_while_down``: while somebody had."""

    requests: int = 0
    failed: int = 0
    refused_while_down: int = 0


class Traffic(threading.Thread):
    """Asks each server in turn. ``struck``: whether this server is under a fault."""

    def __init__(
        self, ports: Sequence[int], struck: Callable[[int], bool], folder: Path, pause_s: float = 0.1
    ) -> None:
        super().__init__(name="traffic", daemon=True)
        self._ports, self._struck, self._pause_s = ports, struck, pause_s
        self._file = folder / "http.jsonl"
        self._stop_asked = threading.Event()
        self._waiting: deque[tuple[int, str, str]] = deque()
        self._down_until: dict[int, float] = {}
        self.counts = Counts()
        self.failures: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT_S) as client, self._file.open("w", encoding="utf-8") as notes:
            number = 0
            while not self._stop_asked.wait(self._pause_s):
                server = number % len(self._ports)
                model = CLASSIFIERS[number // 2 % 2]
                features = {"amount": number % 100 / 100, "hour": number % 24, "carrier": "DL"}
                body = {"model": model, "features": features, "prediction_id": f"http-{number}"}
                note = self._ask(client, server, "/predict", body)
                notes.write(json.dumps({"server": server, "id": f"http-{number}", **note}) + "\n")
                if note["status"] == 200:
                    self._waiting.append((server, f"http-{number}", "late" if number % 3 else "on_time"))
                if len(self._waiting) > _LABEL_AFTER:
                    server, name, truth = self._waiting.popleft()
                    note = self._ask(client, server, "/feedback", {"prediction_id": name, "label": truth})
                    notes.write(json.dumps({"server": server, "label_of": name, **note}) + "\n")
                number += 1

    def _ask(
        self, client: httpx.Client, server: int, path: str, body: dict[str, object]
    ) -> dict[str, object]:
        struck_before = self._is_down(server)
        at = time.time()
        status, reason = 0, ""
        try:
            answer = client.post(f"http://127.0.0.1:{self._ports[server]}{path}", json=body)
            status = answer.status_code
            reason = "" if answer.is_success else answer.text[:200]
        except httpx.HTTPError as error:
            reason = repr(error)
        self.counts.requests += 1
        if reason:
            if struck_before or self._is_down(server):
                self.counts.refused_while_down += 1
            else:
                self.counts.failed += 1
                self.failures.append(f"server {server} {path} at {at:.3f}: {status} {reason}")
        elif not self._struck(server):
            self._down_until.pop(server, None)
        return {"at": round(at, 3), "status": status, "reason": reason}

    def _is_down(self, server: int) -> bool:
        """From a blow until the first answer after it; but a server must be back within its time."""
        now = time.monotonic()
        if self._struck(server):
            self._down_until[server] = now + _BACK_S
        return now < self._down_until.get(server, 0.0)

    def end(self) -> None:
        self._stop_asked.set()
        self.join()


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
