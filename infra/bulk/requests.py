"""A question to a model, as JSON or as a row of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from ...models.registry.csv_values import TRUE_FALSE, number_of
from ...schemas.base import FeatureValue, first_reason
from ...schemas.errors import Error
from ...schemas.serving import FeatureType

_FEATURES: JsonDict = {"additionalProperties": {"type": ["number", "string", "boolean", "null"]}}
_BOOLS = {**TRUE_FALSE, "1": True, "0": False}
_SMALLEST_MS = 100_000_000_000  # 1973; below it somebody wrote seconds


class Body(BaseModel):
    """A JSON object from outside: a key that means nothing is a mistake that its sender wants to hear of."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Question(Body):
    """What is asked. Values of features are looked at by the hot model, which names the wrong one."""

    features: dict[str, Any] = Field(json_schema_extra=_FEATURES)
    prediction_id: str | None = Field(None, description="yours; a new one by default")
    segments: dict[str, Any] | None = Field(None, json_schema_extra=_FEATURES)
    ts: int | None = Field(None, description="Unix milliseconds; now by default")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a file that cannot be used."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cells:
    """A row of a CSV file: column → text."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and where in its file it stands."""

    line: int
    question: Question


def read_cells(lines: Iterable[str], needed: Iterable[str], source: str) -> Iterator[Cells | BadRow]:
    """The rows of a CSV file with a header. Raises Error when the header lacks a needed column."""
    reader = csv.reader(lines)
    try:
        header = next(reader)
    except StopIteration:
        header: list[str] = []
    except csv.Error as error:
        raise Error(f"{source} has no header that is CSV: {error}") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise Error(f"{source} has more than one column {', '.join(map(repr, twice))}")
    missing = [name for name in needed if name not in header]
    if missing:
        has = ", ".join(header) or "nothing"
        raise Error(f"{source} has no column {', '.join(map(repr, missing))}; its header has: {has}")
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield BadRow(reader.line_num, f"is not CSV: {error}")
            continue
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            yield BadRow(reader.line_num, f"has {len(row)} cells, and the header has {len(header)}")
            continue
        if any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
            yield BadRow(reader.line_num, "is not UTF-8")  # bytes that the file was opened to keep
            continue
        yield Cells(reader.line_num, dict(zip(header, row, strict=True)))


def read_csv_questions(
    lines: Iterable[str],
    source: str,
    *,
    id_column: str | None,
    ts_column: str | None,
    types: Mapping[str, FeatureType],
) -> Iterator[Asked | BadRow]:
    """Every other column is a feature, of the model's type where it has one; an empty cell is null."""
    own = [name for name in (id_column, ts_column) if name is not None]
    for row in read_cells(lines, own, source):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            features = {
                name: feature_of(name, text, types.get(name))
                for name, text in row.cells.items()
                if name not in own
            }
            ts = None if ts_column is None else milliseconds_of(row.cells[ts_column])
        except ValueError as error:
            yield BadRow(row.line, str(error))
            continue
        known = None if id_column is None else row.cells[id_column]
        yield Asked(row.line, Question(features=features, prediction_id=known, segments=None, ts=ts))


def read_json_questions(lines: Iterable[str]) -> Iterator[Asked | BadRow]:
    """One JSON object per line; empty lines are skipped."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = line.encode("utf-8", "surrogateescape")
            yield Asked(number, Question.model_validate_json(text))
        except ValidationError as error:
            yield BadRow(number, first_reason("row", error))


def feature_of(name: str, text: str, kind: FeatureType | None) -> FeatureValue:
    """A cell as a feature. Raises ValueError when it is not of its kind."""
    if text == "":
        return None
    if kind == "category":
        return text
    if kind == "bool":
        if text.lower() not in _BOOLS:
            raise ValueError(f"{name}: {text!r} is neither true nor false")
        return _BOOLS[text.lower()]
    number = number_of(text)
    if number is None and kind == "number":
        raise ValueError(f"{name}: {text!r} is not a number")
    return text if number is None else number


def milliseconds_of(text: str) -> int:
    """Unix milliseconds, or an ISO 8601 time (UTC unless it says otherwise). Raises ValueError."""
    if text.isascii() and text.isdigit():
        value = int(text)
        if value < _SMALLEST_MS:
            raise ValueError(f"time {text}: write Unix milliseconds or ISO 8601, this looks like seconds")
        return value
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"time {text[:40]!r}: write Unix milliseconds or ISO 8601") from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
