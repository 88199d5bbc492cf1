"""From the bytes on vitals to what the monitor works with. Whatever is wrong with them is found here.

On failure: DecodeError, before anything was applied; a vitals message is used whole or not at all.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson
from datasketches import (  # a compiled module, without types
    kll_floats_sketch,  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]
)
from pydantic import ValidationError

from ...schemas.base import Event, check_writable
from ...schemas.control import CONTROL, Control, UpdateControl
from ...schemas.errors import DecodeError
from ...schemas.events import Role
from ...schemas.reasons.validation import first_reason
from ...schemas.serving import Reference
from ...schemas.values.seen_names import SeenNames
from ...schemas.vitals import (
    FLOAT32_MAX,
    CategoryCounts,
    Counts,
    ModelVitals,
    NumberSketch,
    SegmentErrors,
    Vitals,
)

LIMIT = 2**53  # beyond it not every whole number is a JSON number
MAX_ERROR = 1e150  # its square is still a number

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The values of a sketch, ascending, and how many nulls there were."""

    values: Float32Array
    nulls: int


@dataclass(frozen=True, slots=True)
class Observation:
    """One (model, version, role) of one vitals message, decoded."""

    model: str
    version: int
    role: Role
    partition: int
    append_min_ms: int
    append_max_ms: int
    counts: Counts
    errors: FloatArray = field(default_factory=lambda: np.zeros(0))
    bits: bool = True
    seqs: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ts_min: int | None = None
    ts_max: int | None = None
    latency: Numbers | None = None
    predicted: Mapping[str, int] = field(default_factory=dict[str, int])
    segments: Mapping[str, Mapping[str, SegmentErrors]] = field(
        default_factory=dict[str, dict[str, SegmentErrors]]
    )
    rows: int = 0
    """Sampled predictions whose features have all come with this entry; 0: more may follow."""
    numbers: Mapping[str, Numbers] = field(default_factory=dict[str, Numbers])
    categories: Mapping[str, CategoryCounts] = field(default_factory=dict[str, CategoryCounts])


def decode_record(value: bytes) -> Control | tuple[Observation, ...]:
    """Return a control record or a vitals message's observations. Raises DecodeError with the reason."""
    if value.startswith(b'{"vitals":'):  # as the joiner writes them: a large message is parsed once
        return _observations(Vitals.decode(value))
    try:
        record: object = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DecodeError("neither vitals nor a control record: not a JSON object")
    if "control" not in record:
        return _observations(Vitals.decode(value))
    try:
        control = CONTROL.validate_json(value, strict=True)
    except ValidationError as error:
        raise DecodeError(first_reason("Control", error)) from error
    check_writable(control, value)
    if isinstance(control, UpdateControl) and control.reference is not None:
        _check_reference(control.reference)
    return control


def _observations(vitals: Vitals) -> tuple[Observation, ...]:
    observations = tuple(_observation(entry, vitals) for entry in vitals.models)
    bits: dict[tuple[str, int, Role], bool] = {}
    for seen in observations:
        key = (seen.model, seen.version, seen.role)
        if len(seen.errors) and bits.setdefault(key, seen.bits) != seen.bits:
            raise DecodeError(f"Vitals: {seen.model} version {seen.version}: its errors are bits and numbers")
    return observations


def _observation(entry: ModelVitals, vitals: Vitals) -> Observation:
    where = f"Vitals: {entry.model} version {entry.version} {entry.role}"
    _check_counts(entry, vitals, where)
    errors = _errors(entry, where)
    return Observation(
        model=entry.model,
        version=entry.version,
        role=entry.role,
        partition=vitals.partition,
        append_min_ms=vitals.append_min_ms,
        append_max_ms=vitals.append_max_ms,
        counts=entry.counts,
        errors=errors,
        bits=entry.errors is None or entry.errors.kind == "bits",
        seqs=_seqs(entry, len(errors), where),
        ts_min=entry.ts_min,
        ts_max=entry.ts_max,
        latency=_numbers(entry.latency_ms, f"{where}: latency_ms") if entry.latency_ms else None,
        predicted=entry.predicted or {},
        segments=entry.segments or {},
        rows=entry.rows,
        numbers={
            name: _numbers(sketch, f"{where}: numbers.{name}")
            for name, sketch in (entry.numbers or {}).items()
        },
        categories=entry.categories or {},
    )


def _errors(entry: ModelVitals, where: str) -> FloatArray:
    if entry.errors is None:
        return np.zeros(0)
    try:
        values = entry.errors.values()
    except ValueError as error:
        raise DecodeError(f"{where}: errors: {error}") from error
    if not bool(np.all((values >= 0) & (values < MAX_ERROR))):  # also refuses NaN
        raise DecodeError(f"{where}: errors: a value that is not from 0 to {MAX_ERROR:g}")
    return values


def _seqs(entry: ModelVitals, count: int, where: str) -> npt.NDArray[np.int64]:
    """Return the seq of each error."""
    if entry.seqs is None or count == 0:
        return np.arange(entry.first_seq, entry.first_seq + count, dtype=np.int64)
    try:
        gaps = np.frombuffer(base64.b64decode(entry.seqs, validate=True), dtype="<u4")
    except ValueError as error:
        raise DecodeError(f"{where}: seqs: {error}") from error
    if len(gaps) != count - 1:
        raise DecodeError(f"{where}: seqs: {len(gaps)} gaps between {count} errors")
    steps = np.concatenate([[0], np.cumsum(gaps, dtype=np.int64)])
    return entry.first_seq + steps


def _numbers(sketch: NumberSketch, where: str) -> Numbers:
    if sketch.values is not None:
        if not all(-FLOAT32_MAX <= value <= FLOAT32_MAX for value in sketch.values):  # also refuses NaN
            raise DecodeError(f"{where}: a value that is not a 32-bit float")
        return Numbers(np.array(sorted(sketch.values), dtype=np.float32), sketch.nulls)
    if sketch.kll is None:
        return Numbers(np.zeros(0, np.float32), sketch.nulls)
    try:
        kll = cast(Any, kll_floats_sketch.deserialize(base64.b64decode(sketch.kll, validate=True)))
    except (ValueError, IndexError, RuntimeError) as error:  # the C++ library's answers to damaged bytes
        raise DecodeError(f"{where}: {error}") from error
    values: list[float] = kll.get_quantiles(_ranks(kll.n), True) if kll.n else []
    return Numbers(np.asarray(values, dtype=np.float32), sketch.nulls)


@lru_cache(maxsize=256)
def _ranks(n: int) -> FloatArray:
    """Return one rank per value: while a sketch holds at most k, its quantiles there are the values."""
    return (np.arange(n) + 0.5) / n


def _check_counts(entry: ModelVitals, vitals: Vitals, where: str) -> None:
    """Raise DecodeError when a number that is used cannot be a count, a time or a sum of errors."""
    categories = (entry.categories or {}).values()
    segments = [errors for values in (entry.segments or {}).values() for errors in values.values()]
    sketches = (*([entry.latency_ms] if entry.latency_ms else []), *(entry.numbers or {}).values())
    counts: dict[str, Iterable[int]] = {
        "partition": [vitals.partition],
        "append_min_ms": [vitals.append_min_ms],
        "append_max_ms": [vitals.append_max_ms],
        "first_seq": [entry.first_seq],
        "ts_min": [entry.ts_min or 0],
        "ts_max": [entry.ts_max or 0],
        "counts.predictions": [entry.counts.predictions],
        "counts.outcomes": [entry.counts.outcomes],
        "counts.failed": [entry.counts.failed],
        "rows": [entry.rows],
        "nulls": [sketch.nulls for sketch in (*sketches, *categories)],
        "other": [sketch.other for sketch in categories],
        "category": [count for sketch in categories for count in sketch.counts.values()],
        "predicted": (entry.predicted or {}).values(),
        "segments": [errors.count for errors in segments],
    }
    for name, found in counts.items():
        for count in found:
            if not 0 <= count < LIMIT:
                raise DecodeError(f"{where}: {name}: {count} is not from 0 to 2**53")
    if not all(0 <= errors.error_sum < MAX_ERROR for errors in segments):
        raise DecodeError(f"{where}: segments: a sum of errors that is not from 0 to {MAX_ERROR:g}")


def _check_reference(reference: Reference) -> None:
    """Raise DecodeError naming the number that no statistic can be made of."""
    for name, number in _numbers_of(reference):
        if number < 0:
            raise DecodeError(f"UpdateControl: reference{name}: {number} is negative")
        if number > 1 and name.startswith((".accuracy", ".failure_rate", ".predicted.")):
            raise DecodeError(f"UpdateControl: reference{name}: {number} is not from 0 to 1")
    for name, profile in reference.numbers.items():
        if any(b < a for a, b in itertools.pairwise(profile.quantiles)):
            raise DecodeError(f"UpdateControl: reference.numbers.{name}.quantiles: they do not ascend")
    for name, profile in reference.categories.items():
        try:
            SeenNames.read(profile.seen or "")
        except ValueError as error:
            raise DecodeError(f"UpdateControl: reference.categories.{name}.seen: {error}") from error


def _numbers_of(part: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in an event's own fields, but for lists, each with its place."""
    if isinstance(part, Event):  # a later version's fields may hold anything
        part = {field: getattr(part, field) for field in type(part).model_fields}
    if isinstance(part, dict):
        for key, value in cast("dict[str, object]", part).items():
            yield from _numbers_of(value, f"{name}.{key}")
    elif isinstance(part, int | float):
        yield name, part
