"""CSV values: the rows of a file, and what a cell means as a feature or as a time."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ...models.registry.csv_cures import header_cure, number_cure
from ...schemas.base import FeatureValue
from ...schemas.errors import Error
from ...schemas.reasons.known_formats import known_format
from ...schemas.serving import FeatureType
from ...schemas.values.event_time import event_time_problem
from ...schemas.values.text import TRUE_FALSE, number_of

_BOOLS = {**TRUE_FALSE, "1": True, "0": False}
_SMALLEST_MS = 100_000_000_000  # 1973; a smaller number may be a date without dashes
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a file that cannot be used."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class CsvRow:
    """A row of a CSV file: column → text."""

    line: int
    values: dict[str, str]


def read_csv(lines: Iterable[str], needed: Iterable[str], source: str) -> Iterator[CsvRow | BadRow]:
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
        known = known_format(has[:20].encode("utf-8", "surrogateescape"))  # bytes that decoding kept
        if known is not None:
            raise Error(f"{source} is no CSV in UTF-8: {known.what}")
        cure = header_cure(header, missing[0])
        what = f"{source} has no column {', '.join(map(repr, missing))}; its header has: {has}"
        raise Error(f"{what}; {cure}" if cure else what)
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
            yield BadRow(reader.line_num, "is not UTF-8")  # bytes that decoding kept
            continue
        yield CsvRow(reader.line_num, dict(zip(header, row, strict=True)))


def feature_of(name: str, text: str, kind: FeatureType | None) -> FeatureValue:
    """A cell as a feature. Raises ValueError if it is not of its kind."""
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
        cure = number_cure(text)
        raise ValueError(f"{name}: {text!r} is not a number" + (f": {cure}" if cure else ""))
    return text if number is None else number


def milliseconds_of(text: str) -> int:
    """Unix milliseconds, or an ISO 8601 time (UTC unless it says otherwise). Raises ValueError."""
    if text.isascii() and text.isdigit():
        value = int(text) if len(text) <= _MOST_DIGITS else -1
        problem = event_time_problem(value)
        if problem is None and value < _SMALLEST_MS:
            problem = "write Unix milliseconds or ISO 8601"
        if problem is not None:
            raise ValueError(f"time {text[:40]}: {problem}")
        return value
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"time {text[:40]!r}: write Unix milliseconds or ISO 8601") from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
