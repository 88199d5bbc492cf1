"""Bring a model that already exists: what an ONNX file says of itself, checked against labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..schemas.serving import FeatureSpec, Reference, SelfTestRow, Task
from .features import Row
from .fitted import Fitted


@dataclass(frozen=True, slots=True)
class ReferenceTable:
    """A CSV with a header: features and a label column; empty cells are null."""

    rows: tuple[Row, ...]
    labels: tuple[str | float, ...]
    segments: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class ManifestParts:
    """What a registrar needs beside version, time and signature to make a Manifest."""

    fitted: Fitted
    reference: Reference
    self_test: tuple[SelfTestRow, ...]


def read_reference_csv(
    path: Path, *, task: Task, label: str = "label", segments: tuple[str, ...] = ()
) -> ReferenceTable:
    raise NotImplementedError


def inspect_onnx(
    data: bytes,
    reference_rows: Sequence[Row],
    labels: Sequence[str | float],
    classes: tuple[str, ...] | None,
    task: Task,
) -> tuple[tuple[FeatureSpec, ...], tuple[str, ...] | None]:
    raise NotImplementedError


def build_manifest_parts(
    data: bytes, table: ReferenceTable, *, task: Task, classes: tuple[str, ...] | None = None
) -> ManifestParts:
    raise NotImplementedError
