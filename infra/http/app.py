"""The reference server's HTTP: predictions, feedback, live versions, health and metrics.

Bodies are parsed here and answered with orjson: FastAPI's own parsing and encoding would be half of a
request's time. A single prediction runs on the event loop, since handing it to a thread costs more than the
prediction; batches run in a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ...models.formats.features import FeatureError
from ...schemas.errors import NoModelError
from ...streams.serve.client import ClientClosed, EventClient, InvalidEvent
from ...streams.serve.hot.model import LiveModel
from ...streams.serve.hot.requests import Served
from ..bulk.requests import Body
from ..metrics import catalogue as metrics
from ..metrics.catalogue import Metrics, Reading
from .bodies import (
    MAX_BATCH_BYTES,
    BatchBody,
    FeedbackBody,
    PredictBody,
    RequestRefused,
    answer_body,
    body_schema,
    error_response,
    json_response,
    read_body,
)

log = logging.getLogger(__name__)

MAX_BEHIND_S = 30.0  # a server that is behind the updates for this long is not ready

Handler = Callable[[Request], Awaitable[tuple[str, Response]]]


@dataclass(slots=True)
class Draining:
    """``on`` is set once the server should get no new requests."""

    on: bool = False


def create_app(
    models: Sequence[LiveModel], client: EventClient, *, draining: Draining | None = None
) -> FastAPI:
    """Create the app of models that are followed and a client that is open; the caller closes both."""
    api = _Api(models, client, draining or Draining())
    app = FastAPI(
        title="driftloop", description="Predictions of live models, and what turned out to be true."
    )
    routes: tuple[tuple[str, str, Handler, type[Body] | None], ...] = (
        ("POST", "/predict", api.predict, PredictBody),
        ("POST", "/predict/batch", api.predict_batch, BatchBody),
        ("POST", "/feedback", api.feedback, FeedbackBody),
        ("GET", "/model", api.model, None),
        ("GET", "/models", api.all_models, None),
        ("GET", "/health/live", api.live, None),
        ("GET", "/health/ready", api.ready, None),
        ("GET", "/metrics", api.exposition, None),
    )
    for method, path, handler, body in routes:
        app.add_api_route(
            path,
            api.answering(path, handler),
            methods=[method],
            response_model=None,
            summary=(handler.__doc__ or "").strip(),
            openapi_extra=None if body is None else body_schema(body),
        )
    return app


class _Api:
    def __init__(self, models: Sequence[LiveModel], client: EventClient, draining: Draining) -> None:
        self._models = {model.name: model for model in models}
        self._client = client
        self._draining = draining
        self._metrics = Metrics()
        self._metrics.read_with(self._readings)

    def answering(self, path: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: every failure becomes JSON, every request is counted and timed."""

        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            model = ""
            try:
                model, response = await handler(request)
            except RequestRefused as error:
                response = error_response(error.status, str(error))
            except (InvalidEvent, FeatureError) as error:
                response = error_response(422, str(error), error)
            except (NoModelError, ClientClosed) as error:
                response = error_response(503, str(error), error)
            except ClientDisconnect:
                response = error_response(400, "the request ended before its body did")
            except (
                Exception
            ) as error:  # a model may raise anything; the caller gets it, and the server goes on
                log.exception("%s failed", path)
                response = error_response(500, f"the request failed: {error!r}", error)
            self._metrics.count(metrics.REQUESTS, path, model, str(response.status_code))
            self._metrics.observe(metrics.REQUEST_SECONDS, time.perf_counter() - started, path, model)
            return response

        return answer

    async def predict(self, request: Request) -> tuple[str, Response]:
        """Predict with the live version; the answer is emitted as a prediction."""
        body = await read_body(request, PredictBody)
        hot = self._named(body.model)
        served = hot.predict(body.features, body.prediction_id, segments=body.segments, ts=body.ts)
        self._count_answer(hot.name, served)
        return hot.name, json_response(answer_body(hot.name, served))

    async def predict_batch(self, request: Request) -> tuple[str, Response]:
        """Predict many rows at once; a row that fails has its error in its place."""
        body = await read_body(request, BatchBody, MAX_BATCH_BYTES)
        hot = self._named(body.model)
        answers = await run_in_threadpool(
            hot.predict_many,
            [row.features for row in body.rows],
            [row.prediction_id for row in body.rows],
            segments=[row.segments for row in body.rows],
            ts=[row.ts for row in body.rows],
        )
        for answer in answers:
            if isinstance(answer, Served):
                self._count_answer(hot.name, answer)
        return hot.name, json_response({"answers": [answer_body(hot.name, answer) for answer in answers]})

    async def feedback(self, request: Request) -> tuple[str, Response]:
        """Say what was true of a prediction, or whether its answer was right."""
        body = await read_body(request, FeedbackBody)
        source = body.source or ("system" if body.label is not None else "user")
        self._client.label(
            body.prediction_id,
            body.label,
            correct=body.answer_was_right,
            ts=body.ts,
            source=source,
            annotator=body.annotator,
        )
        return "", json_response({"prediction_id": body.prediction_id}, 202)

    async def model(self, request: Request) -> tuple[str, Response]:
        """The live version; `?model=NAME` if several models are served."""
        hot = self._named(request.query_params.get("model"))
        return hot.name, json_response(_described(hot))

    async def all_models(self, request: Request) -> tuple[str, Response]:
        """The live version of every model."""
        return "", json_response({"models": [_described(hot) for hot in self._models.values()]})

    async def live(self, request: Request) -> tuple[str, Response]:
        """Whether the process answers."""
        return "", json_response({"status": "live"})

    async def ready(self, request: Request) -> tuple[str, Response]:
        """Whether requests should be sent here: every model is followed and can answer."""
        models = {name: self._readiness(hot) for name, hot in self._models.items()}
        why = [f"{name}: {state['why']}" for name, state in models.items() if state["why"]]
        if self._draining.on:
            why.insert(0, "the server is stopping")
        body = {"ready": not why, "why": why, "models": models}
        return "", json_response(body, 503 if why else 200)

    async def exposition(self, request: Request) -> tuple[str, Response]:
        """Metrics in Prometheus' text format; `docs/metrics.md` lists them."""
        return "", Response(self._metrics.exposition(), media_type="text/plain; version=1.0.0; charset=utf-8")

    def _named(self, name: str | None) -> LiveModel:
        names = ", ".join(sorted(self._models))
        if name is None:
            if len(self._models) > 1:
                raise RequestRefused(422, f"say which model: this server serves {names}")
            return next(iter(self._models.values()))
        hot = self._models.get(name)
        if hot is None:
            raise RequestRefused(404, f"no model {name[:100]!r} here: this server serves {names}")
        return hot

    def _readiness(self, hot: LiveModel) -> dict[str, object]:
        status = hot.status
        why = ""
        if not status.following:
            why = status.trouble or "the updates have not been read to their end yet"
        elif status.behind_s > MAX_BEHIND_S:
            why = f"{status.behind_s:.0f} s behind the updates. {status.trouble}".rstrip()
        elif not hot.can_answer:
            why = hot.why_not
        return {
            "ready": not why,
            "why": why,
            "version": hot.version,
            "generation": hot.generation,
            "behind_s": round(status.behind_s, 3),
        }

    def _count_answer(self, model: str, served: Served) -> None:
        self._metrics.count(metrics.ANSWERS, model, str(served.version), served.role)

    def _readings(self) -> Iterable[Reading]:
        for name, hot in self._models.items():
            status = hot.status
            yield Reading(metrics.LIVE_VERSION, hot.version, (name,))
            yield Reading(metrics.LIVE_GENERATION, hot.generation, (name,))
            yield Reading(metrics.CAN_ANSWER, hot.can_answer, (name,))
            yield Reading(metrics.FOLLOWING, status.following, (name,))
            yield Reading(metrics.BEHIND_SECONDS, status.behind_s, (name,))
            yield Reading(metrics.SHADOWS_SKIPPED, hot.shadows_skipped, (name,))
        sent = self._client.stats
        yield Reading(metrics.EVENTS_EMITTED, sent.emitted)
        yield Reading(metrics.EVENTS_DROPPED, sent.dropped)
        yield Reading(metrics.EVENTS_WAITING, sent.waiting)
        yield Reading(metrics.EVENTS_ON_DISK, sent.on_disk)
        yield Reading(metrics.EVENTS_DISK_ERRORS, sent.disk_errors)


def _described(hot: LiveModel) -> dict[str, object]:
    current, manifest = hot.current, hot.manifest
    body: dict[str, object] = {
        "name": hot.name,
        "version": current.version,
        "refresh": current.refresh,
        "generation": current.generation,
        "shadows": list(current.shadows),
        "canary": current.canary,
        "can_answer": hot.can_answer,
    }
    if manifest is not None:
        body["manifest"] = manifest.model_dump(
            mode="json",
            exclude_none=True,
            include={
                "version", "parent", "run_id", "created_ms", "artifact_sha256", "artifact_bytes", "format",
                "task", "classes", "learner", "spec_digest", "key_id",
            },
        )  # fmt: skip
        body["features"] = {feature.name: feature.type for feature in manifest.features}
        reference = manifest.reference
        body["reference"] = {"rows": reference.rows, "accuracy": reference.accuracy}
    return body
