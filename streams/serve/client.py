"""Emitting predictions and labels: a bounded call of microseconds that never waits for Kafka.

An event is checked first: what it cannot carry is an InvalidEvent at once, and nothing was emitted. Where
the model's privacy rules are not known yet, it is held as given, in memory, never on the wire. From there
the outbox has it: see ``outbox`` for what happens when Kafka is slow or away.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from ...schemas.errors import Error, SettingsError
from ...schemas.events import Role
from ...schemas.spec.model import Privacy
from ...schemas.topics import LABELS, PREDICTIONS
from ..kafka.connection import Connection
from .delivery.outbox import Dropped, Outbox
from .delivery.overflow import Overflow
from .delivery.spill import Spill
from .events import EventDict, encode_event, label_event, prediction_event
from .plain_values import InvalidEvent, Plain, plain_features
from .prediction_ids import new_prediction_id
from .privacy import Hasher, PrivacyRules
from .spec_rules import SpecRules

__all__ = ["ClientClosed", "ClientStats", "Dropped", "EventClient", "InvalidEvent"]

CLOSE_TIMEOUT_S = 5.0
_MAX_HELD = 10_000


class ClientClosed(Error):
    """The client was closed, or the process forked after making it."""


_forks = 0  # how many forks lie between this process and the one that imported the module


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


@dataclass(frozen=True, slots=True)
class ClientStats:
    """``emitted`` were taken from callers; of them ``waiting`` are under way and ``dropped`` are lost.

    An earlier process's events that wait ``on_disk`` are among ``waiting``, not among ``emitted``.
    """

    emitted: int
    waiting: int
    dropped: int
    fatal_errors: int
    on_disk: int = 0
    disk_errors: int = 0


class _Withheld(NamedTuple):
    model: str
    event: EventDict


class EventClient:
    """Emits predictions and labels. Thread safe; one per process is enough; make it after a fork."""

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

        ``on_drop`` is called from a thread of the client, at most 256 times per moment; ``stats`` counts all.
        ``spill``: where events wait on disk while Kafka is away; the client closes it.
        Raises SettingsError for settings that librdkafka does not take and for hash without a key.
        """
        self._fixed_rules = None if privacy is None else PrivacyRules.of(privacy, hasher)
        self._spec_rules = SpecRules(connection, hasher, on_known=self._release_held)
        self._held: deque[_Withheld] = deque()
        self._counting = threading.Lock()
        self._emitted = 0
        self._predictions, self._labels = connection.topic(PREDICTIONS), connection.topic(LABELS)
        self._forks = _forks
        self._closed = False
        self._outbox = Outbox(
            connection, on_drop=on_drop, queue_events=queue_events, overflow=overflow, spill=spill
        )
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
        """Emits one answer of a model (or, with ``error``, its failure) and gives the id that labels name.

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
            self._hold(_Withheld(model, event))
            return known_id
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
        """Emits what turned out to be true (``label``), or a verdict on the answer (``correct``).

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
        self._outbox.send(self._labels, prediction_id, value)

    def emit_private(self, event: EventDict) -> None:
        """Emits a prediction whose features are already fit to leave. Raises InvalidEvent, ClientClosed."""
        if self._closed or self._forks != _forks:
            self._check_open()
        self._send_prediction(event, str(event["prediction_id"]))

    @property
    def outbox(self) -> Outbox:
        """For records other than predictions and labels."""
        return self._outbox

    @property
    def stats(self) -> ClientStats:
        sent = self._outbox.stats
        return ClientStats(
            self._emitted,
            len(self._held) + sent.waiting,
            sent.dropped,
            sent.fatal_errors,
            sent.on_disk,
            sent.disk_errors,
        )

    def flush(self, timeout_s: float = 10.0) -> int:
        """Waits until everything has arrived, or the time is over; gives how many are still under way."""
        deadline = time.monotonic() + timeout_s
        while self._held and time.monotonic() < deadline:
            self._spec_rules.wait_known(deadline - time.monotonic())
            self._release_held()
        self._outbox.flush(deadline - time.monotonic())
        return self.stats.waiting

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Flushes for at most ``timeout_s``; the rest is kept on disk, or dropped and counted."""
        if self._closed or self._forks != _forks:
            return
        self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + timeout_s
        self.flush(timeout_s)
        while self._held:
            held = self._held.popleft()
            self._drop(held.event, "closed before the specs could be read, which say what may leave")
        self._spec_rules.close()
        self._outbox.close(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed: emit before close(), or make a new one")
        if self._forks != _forks:
            raise ClientClosed("the process forked after the client was made: make one in each process")

    def _send_prediction(self, event: EventDict, key: str) -> None:
        value = encode_event(event)  # before it is counted: it may refuse
        with self._counting:
            self._emitted += 1
        self._outbox.send(self._predictions, key, value)

    def _count(self) -> None:
        with self._counting:
            self._emitted += 1

    def _hold(self, held: _Withheld) -> None:
        if len(self._held) >= _MAX_HELD:
            self._drop(held.event, "too many wait for the specs to be read, which say what may leave")
            return
        self._held.append(held)
        if self._spec_rules.known:  # since we asked: nobody else will come for it
            self._release_held()

    def _release_held(self) -> None:
        while self._spec_rules.known:
            try:
                held = self._held.popleft()
            except IndexError:
                return
            try:
                rules = self._spec_rules.rules(held.model)
                private = self._private(held.event, rules or PrivacyRules())
                key = str(private["prediction_id"])
                self._outbox.send(self._predictions, key, encode_event(private))
            except SettingsError as unusable:
                self._drop(held.event, str(unusable))
            except InvalidEvent as invalid:  # its caller is long gone: counted and told instead
                self._drop(held.event, str(invalid))

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
        self._outbox.drop(self._predictions, str(event["prediction_id"]), reason)
