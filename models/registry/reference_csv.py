"""A reference table: labelled rows in a CSV file with a header."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...schemas.base import FeatureValue, class_name
from ...schemas.errors import ArtifactError
from ...schemas.serving import Task
from ..formats.features import Row
from .csv_values import TRUE_FALSE, number_of


@dataclass(frozen=True, slots=True)
class ReferenceTable:
    """Rows of features (without the label), their labels, and the values of their segments."""

    rows: tuple[Row, ...]
    labels: tuple[str | float, ...]
    segments: tuple[dict[str, str], ...]


def read_reference_csv(
    path: Path, *, task: Task, label: str = "label", segments: tuple[str, ...] = ()
) -> ReferenceTable:
    """Cells: empty → null, ``true``/``false`` → bool, numbers → numbers, else text. A column is of one kind:
    one cell of text makes it a column of text. Raises ArtifactError naming the line and what is wrong there.
    """
    header, lines = _read_lines(path)
    if label not in header:
        raise ArtifactError(
            f"{path}: no column {label!r} (it has {', '.join(header)}): name the column of the truth"
        )
    columns = {name: [line[place] for line in lines] for place, name in enumerate(header)}
    labels = tuple(_label(path, number + 2, cell, task) for number, cell in enumerate(columns.pop(label)))
    values = {name: _column(cells) for name, cells in columns.items()}
    rows = tuple({name: of[place] for name, of in values.items()} for place in range(len(lines)))
    named = tuple(
        {name: class_name(value) for name in segments if (value := row.get(name)) is not None} for row in rows
    )
    return ReferenceTable(rows, labels, named)


def _read_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is empty: it needs a header and labelled rows") from error
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ArtifactError(f"{path}, row {number}: {len(line)} cells under {len(header)} names")
    if not lines:
        raise ArtifactError(f"{path} has a header and no rows")
    return header, lines


def _label(path: Path, number: int, cell: str, task: Task) -> str | float:
    if task == "classification":
        if not cell:
            raise ArtifactError(f"{path}, row {number}: the label is empty")
        value = _column([cell])[0]
        return class_name(cell if value is None else value)
    value = number_of(cell)
    if value is None:
        raise ArtifactError(f"{path}, row {number}: the label must be a number, got {cell[:40]!r}")
    return float(value)


def _column(cells: Sequence[str]) -> list[FeatureValue]:
    known = [cell for cell in cells if cell]
    if all(cell.lower() in TRUE_FALSE for cell in known):
        return [TRUE_FALSE[cell.lower()] if cell else None for cell in cells]
    numbers = [number_of(cell) for cell in cells]  # of an empty cell: None
    if sum(number is not None for number in numbers) == len(known):
        return list(numbers)
    return [cell or None for cell in cells]
