"""A model's follower: the thread that reads its spec and its updates, applies them and acknowledges.

1. The persisted update serves at once (verified again, as if it had just arrived).
2. The specs and model-updates topics are read to their end; the newest update that can be served then serves.
3. Each further update is applied as it comes; what was applied is persisted, then acknowledged.

On failure: while Kafka is away, what serves goes on serving, and the topics are read again from their
beginning. A crash between applying and persisting, or between persisting and acknowledging: both happen again
at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import KafkaException
from pydantic import ValidationError

from ....models.registry.signing import Verifier
from ....schemas.errors import BrokerError, DecodeError, SettingsError
from ....schemas.partition import partition_of
from ....schemas.serving import ModelAck, ModelUpdate
from ....schemas.spec.model import ModelSpec, SpecRecord
from ....schemas.topics import MODEL_ACKS, MODEL_UPDATES, SPECS
from ...kafka.connection import Connection
from ...kafka.reader import LogReader
from ...kafka.record import Record
from ..delivery.outbox import Outbox
from ..privacy import Hasher, PrivacyRules
from .persisted import StateFile
from .requests import ServingState
from .swap import ArtifactSource
from .updates import UpdateApplier, UpdateResult

log = logging.getLogger(__name__)

ACK_EVERY_S = 60.0
_POLL_S = 0.05  # an update waits at most this long
_RETRY_S = 1.0
_REACH_S = 2.0  # also the longest that closing waits while Kafka is away
_ACK_RETRY_S = 5.0
_MAX_UNSENT = 100


@dataclass(frozen=True, slots=True)
class FollowStatus:
    """``following``: the topics were read to their end once. ``behind_s``: how long there was more."""

    following: bool
    behind_s: float
    trouble: str


@dataclass(frozen=True, slots=True)
class FollowParts:
    """What following a model takes. ``state_dir``: where this server persists what it serves."""

    connection: Connection
    store: ArtifactSource
    verifier: Callable[[], Verifier]
    state_dir: Path
    server_id: str
    hasher: Hasher | None = None
    ack_every_s: float = ACK_EVERY_S


class ModelFollower:
    """Keeps ``serving`` up to date. One thread owns it; any may read ``serving`` and ``status``."""

    def __init__(
        self, model: str, parts: FollowParts, outbox: Outbox, on_change: Callable[[ServingState], None]
    ) -> None:
        """Raise StateError if the persisted state cannot be read."""
        self._model, self._parts, self._outbox, self._on_change = model, parts, outbox, on_change
        self._state = StateFile(parts.state_dir, model)
        self._updates = UpdateApplier(model, store=parts.store, verifier=parts.verifier, state=self._state)
        self.serving = ServingState(self._updates.hot)
        self._following = False
        self._trouble = ""
        self._at_end_s = time.monotonic()
        self._current_ack: ModelAck | None = None
        self._unsent: deque[ModelAck] = deque(maxlen=_MAX_UNSENT)
        self._ack_due_s = 0.0
        self._retry_due_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"driftloop-follow-{model}", daemon=True)

    @property
    def status(self) -> FollowStatus:
        behind = time.monotonic() - self._at_end_s if self._following else 0.0
        alive = self._thread.is_alive()
        trouble = self._trouble or ("" if alive else "the follower's thread is not running")
        return FollowStatus(self._following and alive, behind, trouble)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self._state.persisted.spec is not None:
            self._use_spec(self._state.persisted.spec)
        self._report(self._updates.restore())
        while not self._stop.is_set():
            try:
                self._follow()
            except (BrokerError, KafkaException) as error:
                self._trouble = str(error)
                log.warning("%s: updates cannot be read, retrying: %s", self._model, error)
            except Exception as error:  # a server that stops following must say so, and keep trying
                self._trouble = repr(error)
                log.exception("%s: the follower failed and starts over", self._model)
            self._stop.wait(_RETRY_S)

    def _follow(self) -> None:
        with closing(LogReader(self._parts.connection, (SPECS, MODEL_UPDATES), timeout_s=_REACH_S)) as reader:
            specs: list[ModelSpec | str] = []
            updates: list[ModelUpdate] = []
            while not reader.caught_up:
                if self._stop.is_set():
                    return
                self._read(reader, specs, updates)
            self._use_newest(specs)
            if not specs and self._state.persisted.spec is None:
                self._use_newest([ModelSpec()])  # the topic was read whole: there is no spec to obey
            self._report(self._updates.start(updates))
            self._following, self._trouble, self._at_end_s = True, "", time.monotonic()
            self._publish()
            while not self._stop.is_set():
                self._step(reader)

    def _step(self, reader: LogReader) -> None:
        specs: list[ModelSpec | str] = []
        updates: list[ModelUpdate] = []
        self._read(reader, specs, updates)
        if reader.caught_up:
            self._at_end_s = time.monotonic()
        self._use_newest(specs)
        for update in updates:
            self._report(self._updates.offer(update))
        retry_in_s = self._updates.retry_in_s
        if retry_in_s is not None and time.monotonic() >= self._retry_due_s:
            self._retry_due_s = time.monotonic() + retry_in_s
            self._report(self._updates.retry())
        self._acknowledge()

    def _read(self, reader: LogReader, specs: list[ModelSpec | str], updates: list[ModelUpdate]) -> None:
        """Append what has come for this model; a spec that cannot be read as the reason why."""
        key = self._model.encode()
        for record in reader.poll(_POLL_S):
            if record.key != key or record.value is None:
                continue
            if record.topic == self._parts.connection.topic(SPECS):
                try:
                    specs.append(SpecRecord.decode(record.value).model_spec())
                except (DecodeError, ValidationError) as error:
                    specs.append(self._unreadable(record, error))
                continue
            try:
                updates.append(ModelUpdate.decode(record.value))
            except DecodeError as error:
                self._trouble = self._unreadable(record, error)

    def _unreadable(self, record: Record, error: Exception) -> str:
        reason = f"{record.topic}[{record.partition}]@{record.offset} cannot be read: {error}"
        log.error("%s: %s", self._model, reason)
        return reason

    def _use_newest(self, specs: list[ModelSpec | str]) -> None:
        if not specs:
            return
        spec = specs[-1]
        if isinstance(spec, str):
            # Fail closed: what this spec forbids is unknown.
            self._publish(replace(self.serving, rules=None, why_not=spec))
            return
        self._use_spec(spec)
        try:
            self._state.update(spec=spec)
        except OSError as error:
            log.error("the spec of %s cannot be persisted: %s", self._model, error)

    def _use_spec(self, spec: ModelSpec) -> None:
        fallback = spec.serving.fallback
        try:
            rules = PrivacyRules.of_spec(spec, self._parts.hasher)
            self._publish(replace(self.serving, rules=rules, fallback=fallback, why_not=""))
        except SettingsError as error:
            log.error("%s cannot be served: %s", self._model, error)
            self._publish(replace(self.serving, rules=None, fallback=fallback, why_not=str(error)))

    def _publish(self, serving: ServingState | None = None) -> None:
        hot = self._updates.hot
        self.serving = replace(serving or self.serving, hot=hot, shadows=bool(hot.current.shadows))
        self._on_change(self.serving)

    def _report(self, results: list[UpdateResult]) -> None:
        for result in results:
            applied = result.applied
            if applied.status == "live":
                log.info(
                    "%s: version %d live, generation %d", self._model, applied.version, applied.generation
                )
                self._publish()
            else:
                log.warning("%s: generation %d refused: %s", self._model, applied.generation, applied.reason)
            self._queue_ack(result)
        self._acknowledge()

    def _queue_ack(self, result: UpdateResult) -> None:
        applied = result.applied
        ack = ModelAck(
            server_id=self._parts.server_id,
            model=self._model,
            version=applied.version,
            refresh=applied.refresh,
            generation=applied.generation,
            status=applied.status,
            reason=applied.reason,
            load_ms=applied.load_ms,
            ts=_now_ms(),
        )
        # A forgery or a replay is reported once; what is repeated each minute is where this server stands.
        if result.authentic and (self._current_ack is None or ack.generation >= self._current_ack.generation):
            if self._current_ack is not None and _same_ack(ack, self._current_ack):
                return
            self._current_ack = ack
        self._unsent.append(ack)
        self._ack_due_s = 0.0

    def _acknowledge(self) -> None:
        if time.monotonic() < self._ack_due_s or not self._following:
            return
        if not self._unsent and self._current_ack is not None:
            self._unsent.append(self._current_ack.model_copy(update={"ts": _now_ms()}))
        try:
            while self._unsent:
                self._send(self._unsent[0])
                self._unsent.popleft()
            self._ack_due_s = time.monotonic() + self._parts.ack_every_s
        except (KafkaException, BufferError) as error:
            log.warning("%s: an acknowledgement waits: %s", self._model, error)
            self._ack_due_s = time.monotonic() + _ACK_RETRY_S

    def _send(self, ack: ModelAck) -> None:
        self._outbox.send_to_partition(
            MODEL_ACKS,
            f"{self._parts.server_id}/{self._model}",
            ack.encode(),
            lambda partitions: partition_of(self._model, partitions),
        )


def _same_ack(one: ModelAck, other: ModelAck) -> bool:
    ignored = {"ts": 0, "load_ms": 0.0}
    return one.model_copy(update=ignored) == other.model_copy(update=ignored)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
