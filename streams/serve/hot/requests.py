"""Request handling: answer with the live version, and emit every answer and every failure to answer.

A request sees one ``ServingState`` from beginning to end. The model is fed exactly what leaves the server
(hashed features as hashes, dropped ones not at all), because that is what it was trained on. Nothing here
waits for Kafka, the artifact store or the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from ....schemas.base import ClassValue
from ....schemas.errors import NoModelError
from ....schemas.events import Role
from ..client import EventClient
from ..events import checked_id, checked_ts, prediction_event
from ..plain_values import InvalidEvent, Plain, plain_features, sendable_features
from ..prediction_ids import new_prediction_id
from ..privacy import PrivacyRules
from .shadows import ShadowAnswers
from .swap import HotSwap, VersionAnswer

log = logging.getLogger(__name__)

NO_MODEL = "no model"
_SHADOW_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class ServingState:
    """All that a request needs, behind one reference. ``rules`` None: unknown, so nothing may leave."""

    hot: HotSwap
    rules: PrivacyRules | None = None
    fallback: ClassValue | None = None
    shadows: bool = False
    why_not: str = "the model's spec has not been read yet"

    @property
    def can_answer(self) -> bool:
        return self.rules is not None and (self.fallback is not None or self.hot.current.version > 0)


class Served(NamedTuple):
    """An answer. ``version`` 0: the fallback, because no version is live."""

    prediction: ClassValue
    scores: dict[str, float] | None
    version: int
    prediction_id: str
    role: Role
    latency_ms: float


class Failed(NamedTuple):
    """A row of a batch that got no answer."""

    prediction_id: str
    error: str


class _Request:
    """One request while it is handled."""

    __slots__ = ("features", "prediction_id", "segments", "ts")

    def __init__(self, prediction_id: str | None, ts: int | None) -> None:
        """Raise InvalidEvent."""
        now_ms = time.time_ns() // 1_000_000
        self.prediction_id = new_prediction_id(now_ms) if prediction_id is None else checked_id(prediction_id)
        self.ts = now_ms if ts is None else checked_ts(ts)
        self.features: dict[str, Plain] = {}
        self.segments: dict[str, Plain] | None = None


class RequestHandler:
    """Handles the requests of one model. Thread safe."""

    def __init__(self, model: str, client: EventClient) -> None:
        self._model = model
        self._client = client
        self._shadows: ShadowAnswers[_Request] | None = None
        self._shadow_failures = 0
        self._serving: ServingState | None = None

    @property
    def shadows_skipped(self) -> int:
        """Requests that the shadows did not answer, because too many waited or a shadow failed."""
        return (self._shadows.skipped if self._shadows else 0) + self._shadow_failures

    def use(self, serving: ServingState) -> None:
        """Set what shadows answer with from now on; called by one thread, before requests see it."""
        self._serving = serving
        if serving.shadows and self._shadows is None:
            self._shadows = ShadowAnswers(self._model, self._answer_shadows)

    def close(self) -> None:
        """Let shadows answer what is queued, for at most two seconds."""
        if self._shadows is not None:
            self._shadows.close(_SHADOW_CLOSE_S)

    def one(
        self,
        serving: ServingState,
        features: Mapping[str, object],
        prediction_id: str | None = None,
        *,
        segments: Mapping[str, object] | None = None,
        ts: int | None = None,
    ) -> Served:
        """See ``LiveModel.predict``."""
        started = time.perf_counter_ns()
        request = _Request(prediction_id, ts)
        try:
            self._prepare(request, serving, features, segments)
            hot = serving.hot.predict_one(request.features, request.prediction_id)
        except NoModelError as error:
            served = self._without_model(request, serving, started)
            if served is None:
                error.prediction_id = request.prediction_id
                raise
            return served
        except Exception as error:  # whatever it is: a failed request, emitted and raised
            self._emit_failure(request, serving.hot.current.version, error)
            with suppress(AttributeError, TypeError):  # a class of the model's runtime may be closed
                error.prediction_id = request.prediction_id  # pyright: ignore[reportAttributeAccessIssue]
            raise
        return self._answered(request, hot, serving, (time.perf_counter_ns() - started) / 1e6)

    def many(
        self,
        serving: ServingState,
        rows: Sequence[Mapping[str, object]],
        prediction_ids: Sequence[str | None] | None = None,
        *,
        segments: Sequence[Mapping[str, object] | None] | None = None,
        ts: Sequence[int | None] | None = None,
    ) -> list[Served | Failed]:
        """See ``LiveModel.predict_many``."""
        count = len(rows)
        ids = [None] * count if prediction_ids is None else prediction_ids
        segments = [None] * count if segments is None else segments
        stamps = [None] * count if ts is None else ts
        started = time.perf_counter_ns()
        results: dict[int, Served | Failed] = {}
        requests: dict[int, _Request] = {}
        emitted_ids = [""] * count
        for place, (row, known_id, own, stamp) in enumerate(zip(rows, ids, segments, stamps, strict=True)):
            try:
                request = _Request(known_id, stamp)
            except InvalidEvent as error:
                results[place] = Failed(str(known_id), str(error))
                continue
            requests[place] = request
            emitted_ids[place] = request.prediction_id
            try:
                self._prepare(request, serving, row, own)
            except InvalidEvent as error:
                results[place] = self._failed(requests.pop(place), serving, error)
            except NoModelError:  # the same for all rows: raised below, once each row's event is emitted
                continue
        try:
            answers = self._answers(requests, serving, started)
        except NoModelError as error:
            error.prediction_ids = tuple(emitted_ids)
            raise
        share_ms = (time.perf_counter_ns() - started) / 1e6 / max(1, count)
        for place, answer in answers.items():
            if isinstance(answer, VersionAnswer):
                answer = self._answered(requests[place], answer, serving, share_ms)
            results[place] = answer
        return [results[place] for place in range(count)]

    def _prepare(
        self,
        request: _Request,
        serving: ServingState,
        features: Mapping[str, object],
        segments: Mapping[str, object] | None,
    ) -> None:
        """Set what may leave, which is also what the model will see."""
        rules = serving.rules
        if rules is None:
            raise NoModelError(f"model {self._model} cannot answer: {serving.why_not}")
        try:
            request.features = rules.apply(plain_features(features))
            if segments:
                request.segments = rules.apply(plain_features(segments, "segment"))
        except InvalidEvent:
            request.features = rules.apply(sendable_features(features))
            raise

    def _answers(
        self, requests: Mapping[int, _Request], serving: ServingState, started: int
    ) -> Mapping[int, VersionAnswer | Served | Failed]:
        rows = list(requests.values())
        try:
            if serving.rules is None:
                raise NoModelError(f"model {self._model} cannot answer: {serving.why_not}")
            answers = serving.hot.predict([row.features for row in rows], [row.prediction_id for row in rows])
            return dict(zip(requests, answers, strict=True))
        except NoModelError:
            fallbacks = {place: self._without_model(row, serving, started) for place, row in requests.items()}
            given = {place: served for place, served in fallbacks.items() if served is not None}
            if len(given) < len(rows):
                raise
            return given
        except Exception:  # noqa: BLE001  one row's fault or all rows': each alone, with its own error
            return {place: self._answer_alone(row, serving) for place, row in requests.items()}

    def _answer_alone(self, request: _Request, serving: ServingState) -> VersionAnswer | Failed:
        try:
            return serving.hot.predict_one(request.features, request.prediction_id)
        except Exception as error:  # noqa: BLE001  it is this row's result, and emitted
            return self._failed(request, serving, error)

    def _failed(self, request: _Request, serving: ServingState, error: Exception) -> Failed:
        self._emit_failure(request, serving.hot.current.version, error)
        return Failed(request.prediction_id, str(error) or repr(error))

    def _without_model(self, request: _Request, serving: ServingState, started: int) -> Served | None:
        latency_ms = (time.perf_counter_ns() - started) / 1e6
        if serving.fallback is None:
            self._emit(request, 0, None, error=NO_MODEL)
            return None
        self._emit(request, 0, serving.fallback, latency_ms=latency_ms)
        return Served(serving.fallback, None, 0, request.prediction_id, "champion", latency_ms)

    def _answered(
        self, request: _Request, hot: VersionAnswer, serving: ServingState, latency_ms: float
    ) -> Served:
        answer, version, _, role = hot
        prediction, scores = answer.prediction, answer.scores
        self._emit(request, version, prediction, scores=scores, latency_ms=latency_ms, role=role)
        if serving.shadows and self._shadows is not None:
            self._shadows.submit(request)
        return Served(prediction, scores, version, request.prediction_id, role, latency_ms)

    def _answer_shadows(self, batch: Sequence[_Request]) -> None:
        if self._serving is None:
            return
        started = time.perf_counter_ns()
        try:
            by_shadow = self._serving.hot.predict_shadows([request.features for request in batch])
        except Exception as error:  # noqa: BLE001  the shadow's alone, maybe of one request: counted, logged
            if len(batch) > 1:
                for request in batch:
                    self._answer_shadows([request])
                return
            self._shadow_failures += 1
            log.warning("%s: a shadow failed on %s: %r", self._model, batch[0].prediction_id, error)
            return
        share_ms = (time.perf_counter_ns() - started) / 1e6 / max(1, len(batch) * len(by_shadow))
        for answers in by_shadow:
            for request, hot in zip(batch, answers, strict=True):
                given, scores = hot.answer.prediction, hot.answer.scores
                self._emit(request, hot.version, given, scores=scores, latency_ms=share_ms, role="shadow")

    def _emit_failure(self, request: _Request, version: int, error: Exception) -> None:
        """Emit the error without the caller's values. A model's own is safe: it saw only what may leave."""
        public = error.public if isinstance(error, InvalidEvent) else str(error) or repr(error)
        self._emit(request, version, None, error=public)

    def _emit(
        self,
        request: _Request,
        version: int,
        prediction: object,
        *,
        scores: Mapping[str, object] | None = None,
        latency_ms: float | None = None,
        role: Role = "champion",
        error: str | None = None,
    ) -> None:
        """Raise only ClientClosed: the caller gets the answer whatever Kafka does, and however odd it is."""
        try:
            self._client.emit_private(
                prediction_event(
                    self._model,
                    version,
                    request.features,
                    prediction,
                    prediction_id=request.prediction_id,
                    ts=request.ts,
                    scores=scores,
                    latency_ms=latency_ms,
                    segments=request.segments,
                    role=role,
                    error=error,
                )
            )
        except InvalidEvent as invalid:  # an answer that no event can carry, such as NaN: a failed request
            log.warning("%s version %d, %s: %s", self._model, version, request.prediction_id, invalid)
            if error is None:
                self._emit(request, version, None, role=role, error=f"the answer cannot be sent: {invalid}")
