"""Records on vitals for tests of the monitor: what the joiner, the registrar and the trainer would append."""

from __future__ import annotations

import base64
import csv
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from datasketches import kll_floats_sketch
from driftloop.schemas.control import RunControl, SpecControl, UpdateControl
from driftloop.schemas.events import Role
from driftloop.schemas.runs import RunStatus
from driftloop.schemas.serving import CategoryProfile, NumberProfile, Reference
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.vitals import (
    CategoryCounts,
    Counts,
    Errors,
    ModelVitals,
    NumberSketch,
    OffsetRange,
    SegmentErrors,
    Vitals,
)
from driftloop.streams.monitor.core import Emitted, VitalsCore
from river import linear_model, preprocessing

from tests.support.paths import ELEC2

MODEL = "fraud"
START_MS = 1_700_000_000_000
STEP_MS = 1_000

Bits = npt.NDArray[np.bool_]


def sketch(values: Sequence[float] | npt.NDArray[np.float64], nulls: int = 0) -> NumberSketch:
    if not len(values):
        return NumberSketch(count=nulls, nulls=nulls)
    kll: Any = kll_floats_sketch(max(200, min(len(values), 65_535)))
    kll.update(np.asarray(values, dtype=np.float32))
    return NumberSketch(
        count=len(values) + nulls, nulls=nulls, kll=base64.b64encode(cast("bytes", kll.serialize())).decode()
    )


def pack_errors(errors: Bits | npt.NDArray[np.float64]) -> Errors:
    """As the joiner writes them: bools as bits, numbers as float64s."""
    bits = errors.dtype == np.bool_
    data = np.packbits(errors) if bits else errors.astype("<f8")
    return Errors(
        kind="bits" if bits else "f64", count=len(errors), data=base64.b64encode(data.tobytes()).decode()
    )


def entry(
    errors: Bits | npt.NDArray[np.float64] | None = None,
    *,
    model: str = MODEL,
    version: int = 1,
    role: Role = "champion",
    first_seq: int = 0,
    ts: tuple[int, int] | None = None,
    outcomes: int | None = None,
    predictions: int = 0,
    failed: int = 0,
    latency: Sequence[float] | npt.NDArray[np.float64] | None = None,
    predicted: Mapping[str, int] | None = None,
    numbers: Mapping[str, NumberSketch] | None = None,
    categories: Mapping[str, CategoryCounts] | None = None,
    segments: Mapping[str, Mapping[str, SegmentErrors]] | None = None,
    seqs: Sequence[int] | None = None,
    rows: int = 0,
) -> ModelVitals:
    packed = None
    if errors is not None and len(errors):
        packed = pack_errors(errors)
    count = (0 if errors is None else len(errors)) if outcomes is None else outcomes
    gaps = None
    if seqs is not None:
        first_seq = seqs[0]
        gaps = base64.b64encode(np.diff(np.array(seqs)).astype("<u4").tobytes()).decode()
    return ModelVitals(
        model=model,
        version=version,
        role=role,
        counts=Counts(predictions=predictions, outcomes=count, failed=failed),
        first_seq=first_seq,
        seqs=gaps,
        errors=packed,
        ts_min=None if ts is None else ts[0],
        ts_max=None if ts is None else ts[1],
        latency_ms=None if latency is None else sketch(latency),
        predicted=None if predicted is None else dict(predicted),
        rows=rows,
        numbers=None if numbers is None else dict(numbers),
        categories=None if categories is None else dict(categories),
        segments=None if segments is None else {name: dict(values) for name, values in segments.items()},
    )


def vitals(*entries: ModelVitals, partition: int = 0, append_ms: int = START_MS) -> bytes:
    return Vitals(
        partition=partition,
        predictions=OffsetRange(start=0, end=1),
        labels=OffsetRange(start=0, end=1),
        append_min_ms=append_ms,
        append_max_ms=append_ms,
        counts=Counts(),
        models=entries,
    ).encode()


def spec_record(spec: ModelSpec, model: str = MODEL) -> bytes:
    return SpecControl(
        model=model, digest=spec.digest(), spec=spec.model_dump(mode="json"), ts=START_MS
    ).encode()


def update_record(version: int, reference: Reference | None = None, *, refresh: int = 0) -> bytes:
    return UpdateControl(
        model=MODEL,
        generation=version + 1,
        version=version,
        refresh=refresh,
        reference=reference,
        ts=START_MS,
    ).encode()


def run_record(trigger_id: str, status: RunStatus, *, last_stage: bool = True) -> bytes:
    return RunControl(
        model=MODEL,
        run_id=f"run-of-{trigger_id}",
        trigger_id=trigger_id,
        stage=0,
        last_stage=last_stage,
        status=status,
        ts=START_MS,
    ).encode()


def reference(**changes: Any) -> Reference:
    """Accuracy 0.8 on a hold-out of 3,000 rows, one number from N(0, 1), one category."""
    known: dict[str, Any] = {
        "rows": 10_000,
        "accuracy": 0.8,
        "latency_p95_ms": 10.0,
        "failure_rate": 0.01,
        "predicted": {"no": 0.7, "yes": 0.3},
        "numbers": {"amount": number_profile(np.random.default_rng(1).normal(size=10_000))},
        "categories": {"country": CategoryProfile(count=10_000, nulls=0, counts={"de": 5_000, "fr": 5_000})},
    }
    return Reference(**(known | changes))


def number_profile(values: npt.NDArray[np.float64], nulls: int = 0) -> NumberProfile:
    quantiles = np.quantile(values, np.linspace(0, 1, 101), method="inverted_cdf")
    return NumberProfile(count=len(values), nulls=nulls, quantiles=tuple(float(q) for q in quantiles))


class MonitorLog:
    """A vitals partition that is appended to and applied at once; one second passes per record."""

    def __init__(self, core: VitalsCore | None = None) -> None:
        self.core = core or VitalsCore(0)
        self.records: list[tuple[bytes, int]] = []
        self.emitted: list[Emitted] = []
        self.now_ms = START_MS
        self._seq = 0

    def append(self, value: bytes, *, after_ms: int = STEP_MS) -> list[Emitted]:
        self.now_ms += after_ms
        self.records.append((value, self.now_ms))
        emitted = self.core.apply(value, offset=len(self.records) - 1, append_time_ms=self.now_ms)
        self.emitted.extend(emitted)
        return emitted

    def stream(
        self, errors: Bits | npt.NDArray[np.float64], *, batch: int = 50, **known: Any
    ) -> list[Emitted]:
        """Errors as the joiner would report them, ``batch`` to a message."""
        emitted: list[Emitted] = []
        for i in range(0, len(errors), batch):
            part = errors[i : i + batch]
            stamp = self.now_ms - 60_000
            item = entry(part, first_seq=self._seq, ts=(stamp, stamp + STEP_MS), **known)
            emitted += self.append(vitals(item, append_ms=self.now_ms))
            self._seq += len(part)
        return emitted


def bits(rate: float, n: int, seed: int) -> Bits:
    return np.random.default_rng(seed).random(n) < rate


@cache
def electricity_errors() -> npt.NDArray[np.float64]:
    """Prequential errors of an online logistic regression on the electricity market (Harries 1999)."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    wrong: list[bool] = []
    with gzip.open(ELEC2, "rt") as file:
        for row in csv.DictReader(file):
            x = {name: float(value) for name, value in row.items() if name not in ("class", "date")}
            up = row["class"] == "UP"
            wrong.append(model.predict_one(x) != up)
            model.learn_one(x, up)
    return np.array(wrong, dtype=np.float64)
