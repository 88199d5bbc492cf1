"""Ground truth in bulk: the rows of a CSV file as labels. A bad row is reported and stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ...schemas.errors import Error
from ...schemas.values.text import TRUE_FALSE, number_of
from ...streams.serve.client import EventClient, InvalidEvent
from .csv_values import BadRow, milliseconds_of, read_csv

LabelType = Literal["auto", "text", "number"]

FLUSH_S = 60.0
_FLUSH_EVERY = 20_000  # keeps what waits far below the client's bounds, so that nothing is dropped
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """Which columns hold what. Without ``ts`` the labels are from now."""

    prediction_id: str
    label: str
    ts: str | None = None
    type: LabelType = "auto"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label."""

    line: int
    prediction_id: str
    label: str | int | float
    ts: int | None


@dataclass(frozen=True, slots=True)
class Imported:
    """How many labels arrived, and how many rows could not be used."""

    sent: int
    bad: int


def read_labels(lines: Iterable[str], columns: LabelColumns, source: str) -> Iterator[LabelRow | BadRow]:
    """Raise Error if the header lacks a column."""
    needed = [name for name in (columns.prediction_id, columns.label, columns.ts) if name is not None]
    for row in read_csv(lines, needed, source):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            label = _label(row.values[columns.label], columns.type)
            ts = None if columns.ts is None else milliseconds_of(row.values[columns.ts])
        except ValueError as error:
            yield BadRow(row.line, str(error))
            continue
        yield LabelRow(row.line, row.values[columns.prediction_id], label, ts)


def import_labels(
    rows: Iterable[LabelRow | BadRow],
    client: EventClient,
    *,
    source: str,
    annotator: str | None = None,
    on_bad: Callable[[BadRow], None],
) -> Imported:
    """Emit every usable row. Raises Error if Kafka does not take all of them in time."""
    sent = bad = 0
    for row in rows:
        if isinstance(row, LabelRow):
            try:
                client.label(row.prediction_id, row.label, ts=row.ts, source=source, annotator=annotator)
            except InvalidEvent as error:
                row = BadRow(row.line, str(error))
        if isinstance(row, BadRow):
            bad += 1
            on_bad(row)
            continue
        sent += 1
        if sent % _FLUSH_EVERY == 0:
            _flush(client, sent)
    _flush(client, sent)
    return Imported(sent, bad)


def _flush(client: EventClient, sent: int) -> None:
    waiting = client.flush(FLUSH_S)
    lost = client.stats.dropped
    if waiting or lost:
        raise Error(
            f"of {sent} labels sent so far, {waiting} have not arrived within {FLUSH_S:g} s and {lost} will "
            "not: is the cluster reachable? Import the file again; labels that repeat are dropped"
        )


def _label(text: str, kind: LabelType) -> str | int | float:
    if text.strip().lower() in _MISSING and kind != "text":
        raise ValueError(f"the label is missing ({text!r})")
    if text == "":
        raise ValueError("the label is missing")
    if kind == "auto" and text.lower() in TRUE_FALSE:
        return TRUE_FALSE[text.lower()]  # pandas writes True, and a model's class is "true"
    number = None if kind == "text" else number_of(text)
    if number is None and kind == "number":
        raise ValueError(f"the label {text[:40]!r} is not a number")
    return text if number is None else number
