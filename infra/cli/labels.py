"""``driftloop labels import``: ground truth that comes in bulk."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ...schemas.errors import Error
from ..bulk.csv_values import BadRow
from ..bulk.labels import Imported, LabelColumns, LabelType, import_labels, read_labels
from ..settings import Settings
from .console import errors, output
from .kafka import reached

_SHOWN = 20


commands = typer.Typer(name="labels", help="Labels: what turned out to be true.", no_args_is_help=True)


@commands.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV with a header, UTF-8.", exists=True, dir_okay=False)],
    id_column: Annotated[str, typer.Option(help="Column with the prediction_id.")] = "prediction_id",
    label_column: Annotated[str, typer.Option(help="Column with what was true.")] = "label",
    ts_column: Annotated[
        str | None,
        typer.Option(help="Column with when it was known: Unix ms or ISO 8601.", show_default="now"),
    ] = None,
    source: Annotated[str, typer.Option(help="Who says so: expert, system, user, …")] = "system",
    annotator: Annotated[str | None, typer.Option(help="Which of them.")] = None,
    label_type: Annotated[LabelType, typer.Option(help="auto: what is written as a number is one.")] = "auto",
    bad_rows: Annotated[
        Path | None, typer.Option(help="Write every row that cannot be used here: line, reason.")
    ] = None,
) -> None:
    """Import labels from a CSV file. Rows that cannot be used are reported by line, and stop nothing."""
    from ...streams.serve.client import EventClient

    if bad_rows is not None and bad_rows.exists() and bad_rows.samefile(file):
        raise Error(f"--bad-rows must be another file than {file}")
    columns = LabelColumns(id_column, label_column, ts_column, label_type)
    with ExitStack() as stack:
        report_bad = _BadRows(stack, bad_rows)
        client = stack.enter_context(EventClient(reached(Settings())))
        progress = stack.enter_context(
            Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=errors)
        )
        lines = stack.enter_context(
            progress.open(
                file, "r", description=file.name, encoding="utf-8-sig", errors="surrogateescape", newline=""
            )
        )
        imported = import_labels(
            read_labels(lines, columns, str(file)),
            client,
            source=source,
            annotator=annotator,
            on_bad=report_bad,
        )
    _report(imported, bad_rows)


class _BadRows:
    """Shows the first bad rows, and writes all of them to ``path`` if there is one."""

    def __init__(self, stack: ExitStack, path: Path | None) -> None:
        self._count = 0
        self._stack, self._path = stack, path
        self._file: TextIO | None = None

    def __call__(self, row: BadRow) -> None:
        self._count += 1
        if self._count <= _SHOWN:
            errors.print(f"line {row.line}: {row.reason}", highlight=False, markup=False, soft_wrap=True)
        if self._path is None:
            return
        if self._file is None:  # only now: without a bad row no file is overwritten
            self._file = self._stack.enter_context(self._path.open("w", encoding="utf-8", newline=""))
            csv.writer(self._file).writerow(["line", "reason"])
        csv.writer(self._file).writerow([row.line, row.reason])


def _report(imported: Imported, bad_rows: Path | None) -> None:
    output.print(f"{imported.sent} labels imported", highlight=False)
    if imported.bad:
        more = f"; the first {_SHOWN} are above" if imported.bad > _SHOWN else ""
        all_of_them = f", all in {bad_rows}" if bad_rows is not None else ""
        raise Error(f"{imported.bad} rows could not be used{more}{all_of_them}")
