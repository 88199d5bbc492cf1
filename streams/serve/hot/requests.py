"""Answering with what serves at the moment, and emitting every answer and every failure to answer.

A request sees one ``Serving`` from its beginning to its end. The model is fed exactly what leaves the server
(hashed features as hashes, dropped ones not at all), because that is what it was trained on. Nothing here
waits for Kafka, the artifact store or the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ....schemas.base import ClassValue
from ....schemas.errors import NoModelError
from ....schemas.events import Role
from ..client import Client
from ..events import checked_id, checked_ts, prediction_event
from ..plain_values import InvalidEvent, Plain, plain_features, sendable_features
from ..prediction_ids import new_prediction_id
from ..privacy import PrivacyRules
from .shadows import Asked, ShadowAnswers
from .swap import HotSwap
from .swap import Served as HotServed

log = logging.getLogger(__name__)

NO_MODEL = "no model"
_SHADOW_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Serving:
    """All that answering needs, behind one reference. ``rules`` None: unknown, so nothing may leave."""

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


class _Asking:
    """One request on its way."""

    __slots__ = ("features", "prediction_id", "segments", "ts")

    def __init__(self, prediction_id: str | None, ts: int | None) -> None:
        """Raises InvalidEvent."""
        now_ms = time.time_ns() // 1_000_000
        self.prediction_id = new_prediction_id(now_ms) if prediction_id is None else checked_id(prediction_id)
        self.ts = now_ms if ts is None else checked_ts(ts)
        self.features: dict[str, Plain] = {}
        self.segments: dict[str, Plain] | None = None


class Answering:
    """Answers for one model. Thread safe."""

    def __init__(self, model: str, client: Client) -> None:
        self._model = model
        self._client = client
        self._shadows: ShadowAnswers | None = None
        self._shadow_failures = 0
        self._serving: Serving | None = None

    @property
    def shadows_skipped(self) -> int:
        """Requests that the shadows did not answer, because too many waited or a shadow failed."""
        return (self._shadows.skipped if self._shadows else 0) + self._shadow_failures

    def use(self, serving: Serving) -> None:
        """What shadows answer with from now on; to be called by one thread, before requests see it."""
        self._serving = serving
        if serving.shadows and self._shadows is None:
            self._shadows = ShadowAnswers(self._model, self._answer_shadows)

    def close(self) -> None:
        """Gives the answers that shadows still owe, for at most two seconds."""
        if self._shadows is not None:
            self._shadows.close(_SHADOW_CLOSE_S)

    def one(
        self,
        serving: Serving,
        features: Mapping[str, object],
        prediction_id: str | None = None,
        *,
        segments: Mapping[str, object] | None = None,
        ts: int | None = None,
    ) -> Served:
        """See ``HotModel.predict``."""
        started = time.perf_counter_ns()
        asked = _Asking(prediction_id, ts)
        try:
            self._prepare(asked, serving, features, segments)
            hot = serving.hot.predict_one(asked.features, asked.prediction_id)
        except NoModelError:
            served = self._without_model(asked, serving, started)
            if served is None:
                raise
            return served
        except Exception as error:  # whatever it is, it is a failed request, and the caller gets it
            self._emit_failure(asked, serving.hot.current.version, error)
            raise
        return self._answered(asked, hot, serving, (time.perf_counter_ns() - started) / 1e6)

    def many(
        self,
        serving: Serving,
        rows: Sequence[Mapping[str, object]],
        prediction_ids: Sequence[str | None] | None = None,
        *,
        segments: Sequence[Mapping[str, object] | None] | None = None,
        ts: Sequence[int | None] | None = None,
    ) -> list[Served | Failed]:
        """See ``HotModel.predict_many``."""
        count = len(rows)
        ids = [None] * count if prediction_ids is None else prediction_ids
        marks = [None] * count if segments is None else segments
        stamps = [None] * count if ts is None else ts
        started = time.perf_counter_ns()
        results: dict[int, Served | Failed] = {}
        asking: dict[int, _Asking] = {}
        for place, (row, known_id, mark, stamp) in enumerate(zip(rows, ids, marks, stamps, strict=True)):
            try:
                asked = _Asking(known_id, stamp)
            except InvalidEvent as error:
                results[place] = Failed(str(known_id), str(error))
                continue
            asking[place] = asked
            try:
                self._prepare(asked, serving, row, mark)
            except InvalidEvent as error:
                results[place] = self._failed(asking.pop(place), serving, error)
            except NoModelError:  # the same for all rows: told below, once each row's event is emitted
                continue
        answers = self._answers(asking, serving, started)
        share_ms = (time.perf_counter_ns() - started) / 1e6 / max(1, count)
        for place, answer in answers.items():
            if isinstance(answer, HotServed):
                results[place] = self._answered(asking[place], answer, serving, share_ms)
            else:
                results[place] = answer
        return [results[place] for place in range(count)]

    def _prepare(
        self,
        asked: _Asking,
        serving: Serving,
        features: Mapping[str, object],
        segments: Mapping[str, object] | None,
    ) -> None:
        """What may leave, and what the model will see."""
        rules = serving.rules
        if rules is None:
            raise NoModelError(f"model {self._model} cannot answer: {serving.why_not}")
        try:
            asked.features = rules.apply(plain_features(features))
            if segments:
                asked.segments = rules.apply(plain_features(segments, "segment"))
        except InvalidEvent:
            asked.features = rules.apply(sendable_features(features))
            raise

    def _answers(
        self, asking: Mapping[int, _Asking], serving: Serving, started: int
    ) -> Mapping[int, HotServed | Served | Failed]:
        rows = list(asking.values())
        try:
            if serving.rules is None:
                raise NoModelError(f"model {self._model} cannot answer: {serving.why_not}")
            together = serving.hot.predict(
                [row.features for row in rows], [row.prediction_id for row in rows]
            )
            return dict(zip(asking, together, strict=True))
        except NoModelError:
            fallbacks = {place: self._without_model(row, serving, started) for place, row in asking.items()}
            given = {place: served for place, served in fallbacks.items() if served is not None}
            if len(given) < len(rows):
                raise
            return given
        except Exception:  # noqa: BLE001  one row's fault or all rows': each is asked alone and told its own
            return {place: self._answer_alone(row, serving) for place, row in asking.items()}

    def _answer_alone(self, asked: _Asking, serving: Serving) -> HotServed | Failed:
        try:
            return serving.hot.predict_one(asked.features, asked.prediction_id)
        except Exception as error:  # noqa: BLE001  it is this row's result, and emitted
            return self._failed(asked, serving, error)

    def _failed(self, asked: _Asking, serving: Serving, error: Exception) -> Failed:
        self._emit_failure(asked, serving.hot.current.version, error)
        return Failed(asked.prediction_id, str(error) or repr(error))

    def _without_model(self, asked: _Asking, serving: Serving, started: int) -> Served | None:
        latency_ms = (time.perf_counter_ns() - started) / 1e6
        if serving.fallback is None:
            self._emit(asked, 0, None, error=NO_MODEL)
            return None
        self._emit(asked, 0, serving.fallback, latency_ms=latency_ms)
        return Served(serving.fallback, None, 0, asked.prediction_id, "champion", latency_ms)

    def _answered(self, asked: _Asking, hot: HotServed, serving: Serving, latency_ms: float) -> Served:
        answer, version, _, role = hot
        prediction, scores = answer.prediction, answer.scores
        self._emit(asked, version, prediction, scores=scores, latency_ms=latency_ms, role=role)
        if serving.shadows and self._shadows is not None:
            self._shadows.ask(Asked(asked.prediction_id, asked.features, asked.segments, asked.ts))
        return Served(prediction, scores, version, asked.prediction_id, role, latency_ms)

    def _answer_shadows(self, together: Sequence[Asked]) -> None:
        if self._serving is None:
            return
        started = time.perf_counter_ns()
        try:
            by_shadow = self._serving.hot.predict_shadows([asked.features for asked in together])
        except Exception as error:  # noqa: BLE001  the shadow's alone, maybe one request's: counted, told
            if len(together) > 1:
                for asked in together:
                    self._answer_shadows([asked])
                return
            self._shadow_failures += 1
            log.warning("%s: a shadow failed on %s: %r", self._model, together[0].prediction_id, error)
            return
        share_ms = (time.perf_counter_ns() - started) / 1e6 / max(1, len(together) * len(by_shadow))
        for answers in by_shadow:
            for asked, hot in zip(together, answers, strict=True):
                self._emit(
                    asked,
                    hot.version,
                    hot.answer.prediction,
                    scores=hot.answer.scores,
                    latency_ms=share_ms,
                    role="shadow",
                )

    def _emit_failure(self, asked: _Asking, version: int, error: Exception) -> None:
        """Tells the error without the caller's own values; what the model complains of may leave anyway."""
        told = error.public if isinstance(error, InvalidEvent) else str(error) or repr(error)
        self._emit(asked, version, None, error=told)

    def _emit(
        self,
        asked: _Asking | Asked,
        version: int,
        prediction: object,
        *,
        scores: Mapping[str, object] | None = None,
        latency_ms: float | None = None,
        role: Role = "champion",
        error: str | None = None,
    ) -> None:
        """Raises ClientClosed only: what Kafka or an odd answer does must not cost the caller the answer."""
        try:
            self._client.emit_private(
                prediction_event(
                    self._model,
                    version,
                    asked.features,
                    prediction,
                    prediction_id=asked.prediction_id,
                    ts=asked.ts,
                    scores=scores,
                    latency_ms=latency_ms,
                    segments=asked.segments,
                    role=role,
                    error=error,
                )
            )
        except InvalidEvent as invalid:  # an answer that no event can carry, such as NaN: a failed request
            log.warning("%s version %d, %s: %s", self._model, version, asked.prediction_id, invalid)
            if error is None:
                self._emit(asked, version, None, role=role, error=f"the answer cannot be sent: {invalid}")
