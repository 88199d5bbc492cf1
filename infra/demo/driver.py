"""Play the year in event-time order: predict at scheduled departure, label at arrival, wait during runs.

A part of the requests goes over HTTP through the reference server, the rest through a LiveModel of its own in
this process (the batch scorer). Both emit their own predictions; this driver only keeps the ledger.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import orjson

from ...schemas.errors import Error
from ...streams.serve.client import EventClient
from ...streams.serve.hot.model import Failed, LiveModel
from .barrier import Barrier
from .flights import DAY_MS, HOUR_MS, Flights
from .ledger import Ledger
from .live import Picture

HTTP_SHARE = 33  # every 33rd flight goes over HTTP: 10,000 requests in the year
HTTP_THREADS = 2
BARRIER_DAYS = 3  # how often the stream is held until the loop has decided on all of it
FLUSH_S = 60.0


@dataclass(slots=True)
class Requests:
    """The requests to the reference server, and how they went."""

    total: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])


class HttpShare:
    """Sends requests to the reference server over connections that stay open, one per thread."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self._host, self._port, self._model = host, port, model
        self._threads = ThreadPoolExecutor(HTTP_THREADS, thread_name_prefix="demo-http")
        self._local = threading.local()
        self._lock = threading.Lock()
        self.requests = Requests()

    def ask(self, flights: Flights, rows: Sequence[int]) -> dict[int, str]:
        """Row → answer, of those that were answered."""
        answers = self._threads.map(partial(self._predict, flights), rows)
        return {row: answer for row, answer in zip(rows, answers, strict=True) if answer is not None}

    def label(self, flights: Flights, rows: Sequence[int]) -> None:
        """Ground truth through /feedback."""
        list(self._threads.map(partial(self._feedback, flights), rows))

    def close(self) -> None:
        self._threads.shutdown()

    def _predict(self, flights: Flights, row: int) -> str | None:
        body = self._post(
            "/predict",
            {
                "model": self._model,
                "prediction_id": flights.prediction_ids[row],
                "ts": int(flights.ts[row]),
                "features": flights.features(row),
                "segments": flights.segments(row),
            },
        )
        return None if body is None else str(body["prediction"])

    def _feedback(self, flights: Flights, row: int) -> None:
        self._post(
            "/feedback",
            {
                "prediction_id": flights.prediction_ids[row],
                "ts": int(flights.label_ms[row]),
                "label": flights.label(row),
            },
        )

    def _post(self, path: str, body: dict[str, object]) -> dict[str, object] | None:
        started = time.perf_counter()
        try:
            status, answer = self._exchange(path, orjson.dumps(body))
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            status, answer = 0, repr(error).encode()
        took_ms = (time.perf_counter() - started) * 1000
        with self._lock:
            self.requests.total += 1
            self.requests.latencies_ms.append(took_ms)
            if not 200 <= status < 300:
                self.requests.failed += 1
                self.requests.failures.append(f"{path}: {status} {answer[:200]!r}")
                return None
        return orjson.loads(answer)

    def _exchange(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return _request(connection, path, body)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                connection.close()  # the server closes idle ones: retried on a new one
        self._local.connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        return _request(self._local.connection, path, body)


def _request(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


class Driver:
    """The year, hour by hour; a barrier after every third day unless ``race``."""

    def __init__(
        self,
        flights: Flights,
        scorer: LiveModel,
        client: EventClient,
        share: HttpShare,
        barrier: Barrier,
        picture: Picture,
        draw: Callable[[], None],
        *,
        race: bool = False,
    ) -> None:
        self._flights = flights
        self._scorer = scorer
        self._client = client
        self._share = share
        self._barrier = barrier
        self._picture = picture
        self._draw = draw
        self._race = race
        self._said: dict[int, str] = {}
        self._unanswered: set[int] = set()
        self.ledger = Ledger()
        self.held_s = 0.0

    def run(self, days: int | None = None) -> None:
        """Play ``days`` days, or all. Raises LoopStuck if the loop stops responding."""
        hours = _by_hour(self._flights)
        first_day = hours[0].start_ms // DAY_MS
        today = first_day
        for hour in hours:
            day = hour.start_ms // DAY_MS
            if day != today:
                over = days is not None and day - first_day >= days
                self._end_day(hold=over or (day - first_day) % BARRIER_DAYS == 0, last=over)
                today = day
                if over:
                    return
            self._ask(hour.asked)
            self._answer(hour.answered)
            self._picture.events += len(hour.asked) + len(hour.answered)
            self._picture.day = day - first_day
            self._picture.date_ms = hour.start_ms
            self._draw()
        self._end_day(hold=True, last=True)

    def _ask(self, rows: list[int]) -> None:
        over_http = [row for row in rows if row % HTTP_SHARE == 0]
        in_batch = [row for row in rows if row % HTTP_SHARE != 0]
        flights = self._flights
        if in_batch:
            served = self._scorer.predict_many(
                [flights.features(row) for row in in_batch],
                prediction_ids=[flights.prediction_ids[row] for row in in_batch],
                segments=[flights.segments(row) for row in in_batch],
                ts=[int(flights.ts[row]) for row in in_batch],
            )
            for row, answer in zip(in_batch, served, strict=True):
                if isinstance(answer, Failed):
                    raise Error(f"the scorer failed on {answer.prediction_id}: {answer.error}")
                self._said[row] = str(answer.prediction)
        answered = self._share.ask(flights, over_http) if over_http else {}
        self._said.update(answered)
        self._unanswered.update(row for row in over_http if row not in answered)
        self.ledger.predicted.extend(row for row in rows if row not in self._unanswered)

    def _answer(self, rows: list[int]) -> None:
        flights = self._flights
        rows = [row for row in rows if row not in self._unanswered]
        over_http = [row for row in rows if row % HTTP_SHARE == 0]
        for row in rows:
            if row % HTTP_SHARE:
                label, ts = flights.label(row), int(flights.label_ms[row])
                self._client.label(flights.prediction_ids[row], label=label, ts=ts)
            self._picture.right.append(self._said.pop(row, None) == flights.label(row))
        if over_http:
            self._share.label(flights, over_http)
        self.ledger.labelled.extend(rows)

    def _end_day(self, *, hold: bool, last: bool = False) -> None:
        self._picture.end_day()
        if not hold or (self._race and not last):
            self._barrier.refresh()
            return
        started = time.monotonic()
        self._picture.doing = "the loop catches up"
        if self._client.flush(FLUSH_S):  # the scorer emits through the same client
            raise Error(f"Kafka did not take the day's events within {FLUSH_S:g} s")
        self._barrier.wait(predictions=len(self.ledger.predicted), labels=len(self.ledger.labelled))
        self._picture.doing = ""
        self.held_s += time.monotonic() - started


@dataclass(frozen=True, slots=True)
class Hour:
    """Rows predicted and labelled within one hour, each in event-time order."""

    start_ms: int
    asked: list[int]
    answered: list[int]


def _by_hour(flights: Flights) -> list[Hour]:
    timeline = np.array(list(flights.timeline()), dtype=np.int64)
    starts = timeline[:, 0] // HOUR_MS
    cuts = np.flatnonzero(np.diff(starts)) + 1
    hours: list[Hour] = []
    for part in np.split(timeline, cuts):
        labels = part[:, 2] == 1
        hours.append(
            Hour(int(part[0, 0]) // HOUR_MS * HOUR_MS, part[~labels, 1].tolist(), part[labels, 1].tolist())
        )
    return hours
