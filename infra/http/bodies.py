"""Request and response bodies of the reference server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol, TypeVar

import orjson
from pydantic import Field, ValidationError, model_validator
from starlette.responses import Response

from ...schemas.errors import Error, NoModelError
from ...schemas.reasons.validation import first_reason
from ...schemas.values.event_time import WholeMs
from ...streams.serve.hot.requests import Failed, Served
from ..bulk.requests import Body, PredictRequest

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_BATCH_ROWS = 10_000


class RequestRefused(Error):
    """A request that no model answers: which status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class PredictBody(PredictRequest):
    """``POST /predict``."""

    model: str | None = Field(None, description="needed if several models are served")


class BatchBody(Body):
    """``POST /predict/batch``."""

    rows: list[PredictRequest] = Field(max_length=MAX_BATCH_ROWS)
    model: str | None = Field(None, description="needed if several models are served")


class FeedbackBody(Body):
    """``POST /feedback``: ground truth (`label`), feedback on the answer (`correct`), or thumbs."""

    prediction_id: str
    label: str | int | float | bool | None = None
    correct: bool | None = None
    thumbs: Literal["up", "down"] | None = None
    ts: WholeMs | None = Field(None, description="Unix milliseconds; now by default")
    source: str | None = Field(None, description="by default system for a label, user for feedback")
    annotator: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> FeedbackBody:
        if sum(given is not None for given in (self.label, self.correct, self.thumbs)) != 1:
            raise ValueError("give exactly one of label, correct and thumbs")
        return self

    @property
    def answer_was_right(self) -> bool | None:
        return self.thumbs == "up" if self.thumbs is not None else self.correct


class Incoming(Protocol):
    """What ``read_body`` needs of a request."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    def stream(self) -> AsyncIterator[bytes]: ...


B = TypeVar("B", bound=Body)


async def read_body(request: Incoming, kind: type[B], max_bytes: int = MAX_BODY_BYTES) -> B:
    """Raise RequestRefused: 413 once the body is known to be too large, 422 if it is not as described."""
    declared = request.headers.get("content-length", "")
    # Anything but a plain number is ignored: Python takes "²" for a digit, and 5,000 digits are too many.
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    try:
        return kind.model_validate_json(bytes(data))
    except ValidationError as error:
        raise RequestRefused(422, first_reason("body", error)) from error


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, written by orjson: it is most of a response's time."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def error_response(status: int, reason: str, cause: Exception | None = None) -> Response:
    """``{"error": …}``; a 503 says when to retry.

    A request that failed and was emitted has its prediction_id beside, each row of a batch its own: labels
    can be sent for them.
    """
    body: dict[str, object] = {"error": reason}
    known_id = getattr(cause, "prediction_id", None)
    if isinstance(known_id, str):
        body = {"prediction_id": known_id, **body}
    if isinstance(cause, NoModelError) and cause.prediction_ids:
        rows = [{"prediction_id": one} if one else {} for one in cause.prediction_ids]
        body["answers"] = [{**row, "error": reason} for row in rows]
    return json_response(body, status, {"Retry-After": "5"} if status == 503 else None)


def answer_body(model: str, answer: Served | Failed) -> dict[str, object]:
    """An answer as JSON."""
    if isinstance(answer, Failed):
        return {"prediction_id": answer.prediction_id, "error": answer.error}
    body: dict[str, object] = {
        "prediction_id": answer.prediction_id,
        "model": model,
        "version": answer.version,
        "prediction": answer.prediction,
        "role": answer.role,
        "latency_ms": answer.latency_ms,
    }
    if answer.scores is not None:
        body["scores"] = answer.scores
    return body


def body_schema(kind: type[Body]) -> dict[str, object]:
    """A body's schema for the OpenAPI page, since FastAPI does not see bodies that it does not parse."""
    schema = kind.model_json_schema()
    if "$defs" in schema:  # OpenAPI resolves references from the document's root, so none may be left
        schema = _inlined(schema, schema.pop("$defs"))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        items: list[Any] = part  # pyright: ignore[reportUnknownVariableType]
        return [_inlined(item, definitions) for item in items]
    if not isinstance(part, dict):
        return part
    table: dict[str, Any] = part  # pyright: ignore[reportUnknownVariableType]
    if "$ref" in table:
        return _inlined(definitions[str(table["$ref"]).rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in table.items()}


def _too_large(max_bytes: int) -> RequestRefused:
    return RequestRefused(413, f"the body is larger than the {max_bytes} bytes allowed")
