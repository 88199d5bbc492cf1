"""Emitting predictions and labels: a bounded call of microseconds that never waits for Kafka.

An event is checked first: for what it cannot carry, InvalidEvent is raised at once and nothing is emitted.
While the model's privacy rules are not known, the event is withheld in memory. Then the outbox takes it; see
``outbox`` for what happens while Kafka is slow or away.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple, Self

from ...schemas.errors import Error, SettingsError
from ...schemas.events import Role
from ...schemas.spec.model import Privacy
from ...schemas.topics import LABELS, PREDICTIONS
from ..kafka.connection import Connection
from .delivery.outbox import Dropped, Outbox, OutboxStats
from .delivery.overflow import Overflow
from .delivery.spill import Spill
from .events import EventDict, encode_event, label_event, prediction_event
from .plain_values import InvalidEvent, Plain, plain_features
from .prediction_ids import new_prediction_id
from .privacy import Hasher, PrivacyRules
from .spec_rules import SpecRules

__all__ = ["ClientClosed", "ClientStats", "Dropped", "EventClient", "InvalidEvent"]

CLOSE_TIMEOUT_S = 5.0
_MAX_WITHHELD = 10_000


class ClientClosed(Error):
    """The client was closed, or the process forked after making it."""


_forks = 0  # between the process that imported this module and this one


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats(OutboxStats):
    """``emitted`` were accepted from callers; of them ``waiting`` are under way and ``dropped`` are lost.

    An earlier process's events that wait ``on_disk`` count as ``waiting``, not as ``emitted``.
    """

    emitted: int


class _Withheld(NamedTuple):
    model: str
    event: EventDict


class EventClient:
    """Emits predictions and labels. Thread safe; one per process is enough; create it after a fork."""

    def __init__(
        self,
        connection: Connection,
        *,
        privacy: Mapping[str, Privacy] | None = None,
        hasher: Hasher | None = None,
        on_drop: Callable[[Dropped], None] | None = None,
        queue_events: int = 100_000,
        overflow: Overflow | None = None,
        spill: Spill | None = None,
    ) -> None:
        """``privacy``: rules for all models; without it each model's published spec is followed.

        ``on_drop`` is called from a thread of the client, for at most 256 events at a time; ``stats`` counts
        all. ``spill``: where events wait on disk while Kafka is away; the client closes it.
        Raises SettingsError for settings that librdkafka does not accept and for hash without a key.
        """
        self._fixed_rules = None if privacy is None else PrivacyRules.of(privacy, hasher)
        self._spec_rules = SpecRules(connection, hasher, on_known=self._release_withheld)
        self._withheld: deque[_Withheld] = deque()
        self._counting = threading.Lock()
        self._emitted = 0
        self._predictions, self._labels = connection.topic(PREDICTIONS), connection.topic(LABELS)
        self._forks = _forks
        self._closed = False
        self.outbox = Outbox(
            connection, on_drop=on_drop, queue_events=queue_events, overflow=overflow, spill=spill
        )
        """For records other than predictions and labels."""
        atexit.register(self.close)

    def prediction(
        self,
        model: str,
        version: int,
        features: Mapping[str, object],
        prediction: object = None,
        *,
        prediction_id: str | None = None,
        ts: int | None = None,
        scores: Mapping[str, object] | None = None,
        latency_ms: float | None = None,
        segments: Mapping[str, object] | None = None,
        role: Role = "champion",
        error: str | None = None,
    ) -> str:
        """Emit one answer of a model (or, with ``error``, its failure) and return its id, for labels.

        ``ts``: Unix milliseconds, now by default. Raises InvalidEvent naming the argument that is wrong,
        ClientClosed after ``close``; never anything that Kafka does.
        """
        now_ms = time.time_ns() // 1_000_000
        known_id = new_prediction_id(now_ms) if prediction_id is None else prediction_id
        event = prediction_event(
            model,
            version,
            plain_features(features),
            prediction,
            prediction_id=known_id,
            ts=now_ms if ts is None else ts,
            scores=scores,
            latency_ms=latency_ms,
            segments=segments,
            role=role,
            error=error,
        )
        if self._closed or self._forks != _forks:
            self._check_open()
        try:
            rules = self._fixed_rules or self._spec_rules.rules(model)
        except SettingsError as unusable:
            self._count()
            self._drop(event, str(unusable))
            return known_id
        if rules is None:
            self._count()
            self._withhold(_Withheld(model, event))
        else:
            self._send_prediction(self._private(event, rules), known_id)
        return known_id

    def label(
        self,
        prediction_id: str,
        label: object = None,
        *,
        correct: bool | None = None,
        ts: int | None = None,
        source: str = "system",
        annotator: str | None = None,
    ) -> None:
        """Emit what turned out to be true (``label``), or feedback on the answer (``correct``).

        Raises InvalidEvent naming the argument that is wrong, ClientClosed; never anything that Kafka does.
        """
        event = label_event(
            prediction_id,
            label,
            correct=correct,
            ts=time.time_ns() // 1_000_000 if ts is None else ts,
            source=source,
            annotator=annotator,
        )
        self._check_open()
        value = encode_event(event)
        self._count()
        self.outbox.send(self._labels, prediction_id, value)

    def emit_private(self, event: EventDict) -> None:
        """Emit a prediction whose features may leave as they are. Raises InvalidEvent, ClientClosed."""
        if self._closed or self._forks != _forks:
            self._check_open()
        self._send_prediction(event, str(event["prediction_id"]))

    @property
    def stats(self) -> ClientStats:
        sent = asdict(self.outbox.stats)
        sent["waiting"] += len(self._withheld)
        return ClientStats(**sent, emitted=self._emitted)

    def flush(self, timeout_s: float = 10.0) -> int:
        """Wait until everything has arrived, or for ``timeout_s``; return how many are still under way."""
        deadline = time.monotonic() + timeout_s
        while self._withheld and time.monotonic() < deadline:
            self._spec_rules.wait_known(deadline - time.monotonic())
            self._release_withheld()
        self.outbox.flush(deadline - time.monotonic())
        return self.stats.waiting

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Flush for at most ``timeout_s``; the rest is kept on disk, or dropped and counted."""
        if self._closed or self._forks != _forks:
            return
        self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + timeout_s
        self.flush(timeout_s)
        while self._withheld:
            held = self._withheld.popleft()
            self._drop(held.event, "closed before the specs, which say what may leave, could be read")
        self._spec_rules.close()
        self.outbox.close(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed: emit before close(), or create a new one")
        if self._forks != _forks:
            raise ClientClosed("the process forked after the client was created: create one in each process")

    def _send_prediction(self, event: EventDict, key: str) -> None:
        value = encode_event(event)  # before it is counted, since it may raise
        with self._counting:
            self._emitted += 1
        self.outbox.send(self._predictions, key, value)

    def _count(self) -> None:
        with self._counting:
            self._emitted += 1

    def _withhold(self, held: _Withheld) -> None:
        if len(self._withheld) >= _MAX_WITHHELD:
            self._drop(held.event, "too many wait for the specs, which say what may leave, to be read")
            return
        self._withheld.append(held)
        if self._spec_rules.known:  # by now: nothing else would release it
            self._release_withheld()

    def _release_withheld(self) -> None:
        while self._spec_rules.known:
            try:
                held = self._withheld.popleft()
            except IndexError:
                return
            try:
                rules = self._spec_rules.rules(held.model)
                private = self._private(held.event, rules or PrivacyRules())
                key = str(private["prediction_id"])
                self.outbox.send(self._predictions, key, encode_event(private))
            except (SettingsError, InvalidEvent) as error:  # its caller has returned: counted and reported
                self._drop(held.event, str(error))

    def _private(self, event: EventDict, rules: PrivacyRules) -> EventDict:
        if rules.nothing:
            return event
        features: dict[str, Plain] = event["features"]  # pyright: ignore[reportAssignmentType]
        event["features"] = rules.apply(features)
        segments: dict[str, Plain] | None = event.get("segments")  # pyright: ignore[reportAssignmentType]
        if segments is not None:
            event["segments"] = rules.apply(segments)
        return event

    def _drop(self, event: EventDict, reason: str) -> None:
        self.outbox.drop(self._predictions, str(event["prediction_id"]), reason)
