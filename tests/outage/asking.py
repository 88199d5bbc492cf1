"""Requests to one server, one behind the other, with a ledger of what it answered, when and how fast."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

_TIMEOUT_S = 10.0
_LABEL_AFTER = 8  # requests later


class Answered(NamedTuple):
    prediction_id: str
    at: float  # monotonic, when it was asked
    seconds: float


@dataclass(slots=True)
class Ledger:
    """What one server acknowledged, in the order of the requests."""

    predictions: list[Answered] = field(default_factory=list[Answered])
    labels: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])


class Asking(threading.Thread):
    """Asks until ``end``. Each prediction gets its label eight requests later."""

    def __init__(self, name: str, port: int, pause_s: float) -> None:
        super().__init__(name=f"asking-{name}", daemon=True)
        self._name, self._base, self._pause_s = name, f"http://127.0.0.1:{port}", pause_s
        self._ended = threading.Event()
        self.ledger = Ledger()

    def run(self) -> None:
        with httpx.Client(base_url=self._base, timeout=_TIMEOUT_S) as client:
            number = 0
            while not self._ended.wait(self._pause_s):
                name, begin = f"{self._name}-{number}", time.monotonic()
                features = {"amount": number % 100 / 100, "hour": number % 24, "carrier": "DL"}
                body: dict[str, object] = {"model": "alpha", "features": features, "prediction_id": name}
                if self._post(client, "/predict", body):
                    self.ledger.predictions.append(Answered(name, begin, time.monotonic() - begin))
                answered = self.ledger.predictions
                if len(answered) > _LABEL_AFTER and len(self.ledger.labels) < len(answered) - _LABEL_AFTER:
                    due = answered[len(self.ledger.labels)].prediction_id
                    truth = "late" if number % 3 else "on_time"
                    if self._post(client, "/feedback", {"prediction_id": due, "label": truth}):
                        self.ledger.labels.append(due)
                number += 1

    def _post(self, client: httpx.Client, path: str, body: dict[str, object]) -> bool:
        try:
            answer = client.post(path, json=body)
        except httpx.HTTPError as error:
            self.ledger.failures.append(f"{self._name} {path}: {error!r}")
            return False
        if not answer.is_success:
            self.ledger.failures.append(f"{self._name} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.is_success

    def end(self) -> None:
        self._ended.set()
        self.join()
