"""What a training child receives and returns: two JSON files, the rows and the artifact, in one folder.

The child gets no connection and no key; what it writes is checked like any foreign input.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field

from ....models.evaluation.result import ExperimentResult
from ....schemas.base import Event, Sha256
from ....schemas.serving import Manifest

JOB, RESULT, ROWS, ARTIFACT = "job.json", "result.json", "rows.bin", "artifact.bin"
CHAMPION, ERRORS = "champion.bin", "stderr.txt"

# Lines of the child's protocol, on the pipe that was its stdout.
READY, EVALUATING, DONE, ENDED = b"ready", b"evaluating", b"done", b"ended "

Side = Literal["before", "after"]
_SIDES: tuple[Side, Side] = ("before", "after")
# A side and its number of rows; then their outcomes partitions, their lengths, and the outcomes themselves.
# Written and read on one machine, so in its byte order.
_BLOCK = struct.Struct("=BQ")


class TrainingJob(Event):
    """``experiment``: train and evaluate. ``self-test``: load ``manifest``'s artifact and run its own rows.

    ``manifest`` is the champion's (with its artifact in CHAMPION), or the one to test (in ARTIFACT).
    ``used_seqs``: last seq per outcomes partition that the champion was trained or evaluated on.
    ``memory_bytes``: what the job may allocate on top of what the process has; beyond it the job fails.
    """

    kind: Literal["experiment", "self-test"]
    spec: dict[str, Any] | None = None
    seed: int = 0
    manifest: Manifest | None = None
    used_seqs: dict[str, int] = Field(default_factory=dict[str, int])
    memory_bytes: int | None = None


class Trained(Event):
    """A result with the artifact that the parent has put into the store."""

    result: ExperimentResult
    artifact_sha256: Sha256 | None = None
    artifact_bytes: int = 0
    timings_ms: dict[str, float] = Field(default_factory=dict[str, float])


def write_rows(file: IO[bytes], side: Side, values: Iterable[tuple[int, bytes]]) -> None:
    """``values``: (outcomes partition, outcome)."""
    rows = list(values)
    file.write(_BLOCK.pack(_SIDES.index(side), len(rows)))
    file.write(array("I", [partition for partition, _ in rows]).tobytes())
    file.write(array("I", [len(value) for _, value in rows]).tobytes())
    file.writelines(value for _, value in rows)


def read_rows(path: Path) -> Iterator[tuple[Side, int, bytes]]:
    """(side, outcomes partition, outcome), as written."""
    with path.open("rb") as file:
        while header := file.read(_BLOCK.size):
            number, count = _BLOCK.unpack(header)
            partitions, lengths = array("I"), array("I")
            partitions.fromfile(file, count)
            lengths.fromfile(file, count)
            for partition, length in zip(partitions, lengths, strict=True):
                yield _SIDES[number], partition, file.read(length)
