"""A request to a model, as JSON or as a row of a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from ...schemas.reasons.validation import first_reason
from ...schemas.serving import FeatureType
from ...schemas.values.event_time import WholeMs
from .csv_values import BadRow, feature_of, milliseconds_of, read_csv

_FEATURES: JsonDict = {"additionalProperties": {"type": ["number", "string", "boolean", "null"]}}


class Body(BaseModel):
    """A JSON object from outside. An unknown key is an error, so that its sender learns of the mistake."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(Body):
    """A request for a prediction. The hot model checks the features' values and names the wrong one."""

    features: dict[str, Any] = Field(json_schema_extra=_FEATURES)
    prediction_id: str | None = Field(None, description="yours; a new one by default")
    segments: dict[str, Any] | None = Field(None, json_schema_extra=_FEATURES)
    ts: WholeMs | None = Field(None, description="Unix milliseconds; now by default")


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A request and its line in the file."""

    line: int
    request: PredictRequest


def read_csv_requests(
    lines: Iterable[str],
    source: str,
    *,
    id_column: str | None,
    ts_column: str | None,
    types: Mapping[str, FeatureType],
) -> Iterator[FileRequest | BadRow]:
    """Every other column is a feature, of the model's type where it has one; an empty cell is null."""
    own = [name for name in (id_column, ts_column) if name is not None]
    for row in read_csv(lines, own, source):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            features = {
                name: feature_of(name, text, types.get(name))
                for name, text in row.values.items()
                if name not in own
            }
            ts = None if ts_column is None else milliseconds_of(row.values[ts_column])
        except ValueError as error:
            yield BadRow(row.line, str(error))
            continue
        known = None if id_column is None else row.values[id_column]
        yield FileRequest(
            row.line, PredictRequest(features=features, prediction_id=known, segments=None, ts=ts)
        )


def read_json_requests(lines: Iterable[str]) -> Iterator[FileRequest | BadRow]:
    """One JSON object per line; empty lines are skipped."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = line.encode("utf-8", "surrogateescape")
            yield FileRequest(number, PredictRequest.model_validate_json(text))
        except ValidationError as error:
            yield BadRow(number, first_reason("row", error))
