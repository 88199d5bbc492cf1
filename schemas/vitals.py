"""Vitals: a summary of one batch of the joiner, per model, version and role.

One message per (vitals partition, input partition, batch). It is all that the monitor reads, so a message
carries every outcome's error (packed bits, or floats for regression) beside the summaries.
"""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from .base import Event, ModelName, Version
from .events import Role

FloatArray = npt.NDArray[np.float64]
FLOAT32_MAX = float(np.finfo(np.float32).max)
NAME_CHARS = 100  # longer names of features are left out, longer names of categories are counted together


class Counts(Event):
    """How many of each were in the batch."""

    predictions: int = 0
    labels: int = 0
    outcomes: int = 0
    failed: int = 0
    early: int = 0
    late: int = 0
    duplicate: int = 0
    corrected: int = 0
    expired: int = 0
    misrouted: int = 0
    dead: int = 0


class Errors(Event):
    """The errors of revision-0 outcomes, in order of ``seq``; base64 of packed bits or float64s."""

    kind: Literal["bits", "f64"]
    count: int
    data: str

    def values(self) -> FloatArray:
        """Shape (count,): 0.0/1.0 for bits, absolute errors for f64 (little endian).

        Raises ValueError where the data is not of ``count`` errors.
        """
        raw = base64.b64decode(self.data, validate=True)
        size = -(-self.count // 8) if self.kind == "bits" else 8 * self.count
        if self.count < 0 or len(raw) != size:  # before anything of the announced size is allocated
            raise ValueError(f"{len(raw)} bytes for {self.count} {self.kind}")
        if self.kind == "bits":
            bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=self.count)
            return bits.astype(np.float64)
        return np.frombuffer(raw, dtype="<f8", count=self.count).astype(np.float64)


class SegmentErrors(Event):
    """Outcomes and summed error of one segment value."""

    count: int
    error_sum: float


class NumberSketch(Event):
    """Few values as they are; more in a KLL sketch (Apache DataSketches, kll_floats) of at most ``k`` values,
    so exact and deterministic. Neither where every value was null."""

    count: int
    nulls: int = 0
    kll: str | None = Field(default=None, description="base64")
    values: tuple[float, ...] | None = Field(default=None, description="instead of kll, where there are few")


class CategoryCounts(Event):
    """Counts per category; ``other`` is what did not fit into the bounded map."""

    count: int
    nulls: int = 0
    counts: dict[str, int]
    other: int = 0


class ModelVitals(Event):
    """One (model, version, role) in one batch."""

    model: ModelName
    version: Version
    role: Role = "champion"
    counts: Counts
    first_seq: int = Field(
        default=0, description="seq of the first error below; they are consecutive per entry"
    )
    seqs: str | None = Field(
        default=None,
        description="base64 of u32 little-endian gaps between consecutive seqs where other entries' outcomes "
        "lie between; absent when the errors' seqs are first_seq, first_seq + 1, …",
    )
    errors: Errors | None = None
    ts_min: int | None = Field(default=None, description="event time of the predictions behind the outcomes")
    ts_max: int | None = None
    latency_ms: NumberSketch | None = None
    label_delay_ms: NumberSketch | None = None
    predicted: dict[str, int] | None = None
    actual: dict[str, int] | None = None
    predicted_values: NumberSketch | None = Field(default=None, description="regression: what was predicted")
    segments: dict[str, dict[str, SegmentErrors]] | None = None
    rows: int = Field(
        default=0,
        description="sampled predictions behind numbers and categories: a feature that has fewer values and "
        "nulls there was missing in the rest. In the last entry, where a batch's features fill several",
    )
    numbers: dict[str, NumberSketch] | None = None
    categories: dict[str, CategoryCounts] | None = None


class OffsetRange(Event):
    """Offsets covered: from ``start`` up to, not including, ``end``."""

    start: int
    end: int


class Vitals(Event):
    """All models of one vitals partition in one batch of one input partition."""

    vitals: Literal[1] = 1
    partition: int = Field(description="the input partition")
    part: int = Field(default=0, description="a batch's message is split under 512 KiB; 0, 1, …")
    predictions: OffsetRange
    labels: OffsetRange
    append_min_ms: int = Field(description="append times of the input records covered")
    append_max_ms: int
    ts_min: int | None = Field(default=None, description="event-time range of the predictions covered")
    ts_max: int | None = None
    counts: Counts = Field(
        description="what could not be ascribed to a model, e.g. labels that expired alone"
    )
    models: tuple[ModelVitals, ...]
