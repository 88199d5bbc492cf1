"""A reference table: labelled rows in a CSV file with a header."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...schemas.base import FeatureValue, class_name
from ...schemas.errors import ArtifactError
from ...schemas.reasons.known_formats import known_format
from ...schemas.serving import FeatureType, Task
from ...schemas.values.classes import Classes
from ...schemas.values.text import TRUE_FALSE, number_of
from ..formats.features import Row
from ..rows import segments_of
from .csv_cures import header_cure

FIRST_ROW = 2  # the header is row 1


@dataclass(frozen=True, slots=True)
class ReferenceTable:
    """Rows of features (without the label), their labels, and the values of their segments.

    ``written``: the same rows as the file has them; empty if they were not read from a file.
    """

    rows: tuple[Row, ...]
    labels: tuple[str | float, ...]
    segments: tuple[dict[str, str], ...]
    written: tuple[Row, ...] = ()

    def with_texts(self, names: Collection[str]) -> ReferenceTable:
        """Return the table with these columns as they are written: "1.0" and "True" stay what they are."""
        if not names or not self.written:
            return self
        rows = tuple(
            {name: texts[name] if name in names else value for name, value in row.items()}
            for row, texts in zip(self.rows, self.written, strict=True)
        )
        return replace(self, rows=rows)


def read_reference_csv(
    path: Path,
    *,
    task: Task,
    label: str = "label",
    segments: tuple[str, ...] = (),
    classes: tuple[str, ...] | None = None,
    types: Mapping[str, FeatureType] | None = None,
) -> ReferenceTable:
    """Read values: empty → null, ``true``/``false`` → bool, numbers → numbers, else text.

    A column has one kind: one text makes it a column of text, and so does a category in ``types`` (as the
    spec declares them). A label is read as one of ``classes`` if it is one in any spelling. Raises
    ArtifactError that names the line and what is wrong there.
    """
    header, lines = _read_lines(path)
    if label not in header:
        cure = header_cure(header, label) or "name the column of the labels"
        raise ArtifactError(f"{path}: no column {label!r} (it has {', '.join(header)}): {cure}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ArtifactError(f"{path}: more than one column {', '.join(map(repr, twice))}: give each its name")
    columns = {name: [line[place] for line in lines] for place, name in enumerate(header)}
    declared = None if classes is None else Classes.of(classes)
    texts = enumerate(columns.pop(label), FIRST_ROW)
    labels = tuple(_label(path, number, text, task, declared) for number, text in texts)
    values = {name: _column(texts) for name, texts in columns.items()}
    rows = tuple({name: of[place] for name, of in values.items()} for place in range(len(lines)))
    written = tuple({name: of[place] or None for name, of in columns.items()} for place in range(len(lines)))
    declared_types = types or {}
    named = tuple(segments_of(row, segments, declared_types) for row in rows)
    table = ReferenceTable(rows, labels, named, written)
    return table.with_texts([name for name in columns if declared_types.get(name) == "category"])


def _read_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line]
    except UnicodeDecodeError as error:
        known = known_format(error.object)
        what = str(error) if known is None else known.what
        raise ArtifactError(f"{path} cannot be read as CSV in UTF-8: {what}: save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is empty: it needs a header and labelled rows") from error
    for number, line in enumerate(lines, FIRST_ROW):
        if len(line) != len(header):
            raise ArtifactError(f"{path}, row {number}: {len(line)} values under {len(header)} names")
    if not lines:
        raise ArtifactError(f"{path} has a header and no rows")
    return header, lines


def _label(path: Path, number: int, text: str, task: Task, declared: Classes | None) -> str | float:
    if task == "classification":
        if not text:
            raise ArtifactError(f"{path}, row {number}: the label is empty")
        known = None if declared is None else declared.read(text)
        if known is not None:
            return known
        value = _column([text])[0]
        return class_name(text if value is None else value)
    value = number_of(text)
    if value is None:
        raise ArtifactError(f"{path}, row {number}: the label must be a number, got {text[:40]!r}")
    return float(value)


def _column(texts: Sequence[str]) -> list[FeatureValue]:
    known = [text for text in texts if text]
    if all(text.lower() in TRUE_FALSE for text in known):
        return [TRUE_FALSE[text.lower()] if text else None for text in texts]
    numbers = [number_of(text) for text in texts]  # of an empty text: None
    if sum(number is not None for number in numbers) == len(known):
        return list(numbers)
    return [text or None for text in texts]
