"""``driftloop score``: a file of requests through the live model."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal, TextIO

import orjson
import typer

from ...schemas.errors import Error
from ...schemas.serving import FeatureType
from ..settings import Settings
from .console import errors
from .kafka import reached


def score(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    file: Annotated[Path, typer.Argument(help="JSONL or CSV, UTF-8; - is standard input.")],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSONL.", show_default="standard output")
    ] = None,
    form: Annotated[
        Literal["jsonl", "csv"] | None, typer.Option("--format", show_default="by the file's name")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="CSV: column with the prediction_id.")] = None,
    ts_column: Annotated[str | None, typer.Option(help="CSV: column with the request's time.")] = None,
    batch: Annotated[int, typer.Option(help="Rows answered at once.", min=1, max=100_000)] = 500,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a live version.", min=0)] = 60.0,
) -> None:
    """Answer a file of requests with the live model; each answer is emitted as a prediction.

    JSONL: {"features": {…}} per line, and prediction_id, segments, ts where there are any. CSV: a header;
    every column but those named is a feature.
    """
    from ..bulk.requests import read_csv_requests, read_json_requests
    from ..bulk.scoring import Scorer
    from ..wiring import open_models

    with ExitStack() as stack:
        lines = _opened(stack, file)
        sink = sys.stdout.buffer if out is None else stack.enter_context(out.open("wb"))
        settings = Settings()
        reached(settings)
        opened = stack.enter_context(open_models(settings, [model], "score"))
        (hot,) = opened.models
        if not hot.wait_ready(wait):
            raise Error(
                f"{model} cannot answer after {wait:g} s: {hot.why_not}. {hot.status.trouble}".rstrip(". ")
            )
        manifest = hot.manifest
        if (form or file.suffix.removeprefix(".").lower()) == "csv":
            features = () if manifest is None else manifest.features
            types: dict[str, FeatureType] = {feature.name: feature.type for feature in features}
            rows = read_csv_requests(lines, str(file), id_column=id_column, ts_column=ts_column, types=types)
        elif id_column is not None or ts_column is not None:
            raise Error("--id-column and --ts-column have no effect on JSONL: leave them out")
        else:
            rows = read_json_requests(lines)
        scorer = Scorer(hot, opened.client, batch_rows=batch)
        for result in scorer.score(rows):
            sink.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
        sink.flush()
    report = scorer.report
    versions = ", ".join(f"version {version}: {rows}" for version, rows in sorted(report.versions.items()))
    errors.print(f"{report.answered} answered ({versions}), {report.failed} failed", highlight=False)
    if report.failed:
        raise Error(f"{report.failed} rows have no answer; each says why in its line of the output")


def _opened(stack: ExitStack, file: Path) -> TextIO:
    if str(file) == "-":
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # pyright: ignore[reportAttributeAccessIssue]
        return sys.stdin
    try:
        return stack.enter_context(file.open("r", encoding="utf-8-sig", errors="surrogateescape", newline=""))
    except OSError as error:
        raise Error(f"{file} cannot be read: {error.strerror}") from error
