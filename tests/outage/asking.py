"""HttpRequests to one server, one behind the other, with a ledger of what it answered, when and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.soak.traffic.http import LABEL_AFTER, HttpRequests, label_body, prediction_body

_TIMEOUT_S = 10.0


class Answered(NamedTuple):
    prediction_id: str
    at: float  # monotonic, when it was asked
    seconds: float


@dataclass(slots=True)
class AnswerLedger:
    """What one server acknowledged, in the order of the requests."""

    predictions: list[Answered] = field(default_factory=list[Answered])
    labels: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])


class Asking(HttpRequests):
    """Asks until ``end``. Each prediction gets its label eight requests later."""

    def __init__(self, name: str, port: int, pause_s: float) -> None:
        super().__init__(f"asking-{name}", pause_s, _TIMEOUT_S)
        self._name, self._port = name, port
        self.ledger = AnswerLedger()

    def send(self, number: int) -> None:
        name, begin = f"{self._name}-{number}", time.monotonic()
        answered, labels = self.ledger.predictions, self.ledger.labels
        if self._succeeds("/predict", prediction_body("alpha", number, name)):
            answered.append(Answered(name, begin, time.monotonic() - begin))
        if len(answered) > LABEL_AFTER and len(labels) < len(answered) - LABEL_AFTER:
            due = answered[len(labels)].prediction_id
            if self._succeeds("/feedback", label_body(number, due)):
                labels.append(due)

    def _succeeds(self, path: str, body: dict[str, object]) -> bool:
        status, reason = self.post(self._port, path, body)
        if reason:
            self.ledger.failures.append(f"{self._name} {path}: {status} {reason}")
        return not reason
