"""Vitals messages of one batch: columns by numpy, features from a bounded sample.

Everything in a message is a function of the batch's records, their order and their place: samples
(``_sampled``) too, and sketches hold what they were given (see ``vitals.sketches``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar, cast

import msgspec
import numpy as np
import orjson

from ....schemas.base import class_name
from ..matching.records import Segments, Variant
from ..matching.rules import ModelRules
from ..reading.plain import PredictionEvent
from ..state.position import Offsets
from .sketches import (
    FEW,
    NAMES,
    OTHER,
    SAMPLE,
    Json,
    base64_text,
    bounded_counts,
    counted,
    most_frequent,
    number_sketch,
    summarise_features,
)

T = TypeVar("T")

MAX_MESSAGE_BYTES = 512 * 1024
_ENVELOPE_BYTES = 2_048  # a message around its entries is well below
_ERRORS_PER_ENTRY = 16_384  # 175 KB of float64 in base64, and 87 KB of gaps
_CLASSES = 1_000
_WITHIN_RUN = np.random.default_rng(0).random(4_093)  # a prime: no size of a batch soon repeats its places


class BatchStats(msgspec.Struct):
    """What one variant did in one batch.

    The lists from ``seqs`` to ``actuals`` are columns: its revision-0 outcomes.
    """

    variant: Variant
    rules: ModelRules
    events: list[PredictionEvent] = []
    seqs: list[int] = []
    errors: list[float | None] = []
    ts: list[int] = []
    delays: list[int] = []
    actuals: list[str | None] = []
    segments: list[tuple[Segments, float | None]] = []  # of the outcomes that have any
    labels: int = 0
    counts: Counter[str] = msgspec.field(default_factory=Counter[str])


class Covered(NamedTuple):
    """The input that a batch's messages cover: offsets from ``start`` to before ``end``, and times."""

    partition: int
    start: Offsets
    end: Offsets
    append_min_ms: int
    append_max_ms: int
    ts_min: int | None
    ts_max: int | None


def vitals_messages(
    covered: Covered, all_stats: Iterable[BatchStats], counts: Mapping[str, int]
) -> list[bytes]:
    """Return the messages of a vitals partition, each under 512 KiB. ``counts``: what belongs to no model."""
    turn = covered.partition + covered.start.predictions
    entries = [entry for stats in all_stats for entry in _entries(stats, turn)]
    parts: list[list[bytes]] = [[]]
    size = _ENVELOPE_BYTES
    for entry in entries:
        if parts[-1] and size + len(entry) + 1 > MAX_MESSAGE_BYTES:
            parts.append([])
            size = _ENVELOPE_BYTES
        parts[-1].append(entry)
        size += len(entry) + 1
    return [
        _message(covered, part, entries, counts if part == 0 else {}) for part, entries in enumerate(parts)
    ]


def _message(covered: Covered, part: int, entries: list[bytes], counts: Mapping[str, int]) -> bytes:
    envelope: Json = {
        "vitals": 1,
        "partition": covered.partition,
        "part": part,
        "predictions": {"start": covered.start.predictions, "end": covered.end.predictions},
        "labels": {"start": covered.start.labels, "end": covered.end.labels},
        "append_min_ms": covered.append_min_ms,
        "append_max_ms": covered.append_max_ms,
    }
    if covered.ts_min is not None:
        envelope |= {"ts_min": covered.ts_min, "ts_max": covered.ts_max}
    envelope["counts"] = _present(counts)
    return b"".join((orjson.dumps(envelope)[:-1], b',"models":[', b",".join(entries), b"]}"))


def _entries(stats: BatchStats, turn: int) -> list[bytes]:
    """Return usually one entry; several where one would be too large."""
    rows = _sampled(stats.events, turn)
    model, version, role = stats.variant
    variant: Json = {"model": model, "version": version, "role": role}
    entry: Json = variant | {"counts": _counts(stats)}
    entry |= _outcomes(stats, slice(0, _ERRORS_PER_ENTRY))
    entry |= _answers(stats, turn)
    latencies = [latency for row in rows if (latency := row.latency_ms) is not None]
    if latencies:
        entry["latency_ms"] = number_sketch(latencies)
    if stats.delays:
        entry["label_delay_ms"] = number_sketch(_sampled(stats.delays, turn))
    numbers, categories = summarise_features([row.features for row in rows], stats.rules.feature_types)
    sampled: Json = {"rows": len(rows)} if rows else {}
    whole = entry | sampled
    whole |= ({"numbers": numbers} if numbers else {}) | ({"categories": categories} if categories else {})
    encoded = orjson.dumps(whole)
    more = [
        orjson.dumps(variant | {"counts": {}} | _outcomes(stats, slice(i, i + _ERRORS_PER_ENTRY)))
        for i in range(_ERRORS_PER_ENTRY, len(stats.seqs), _ERRORS_PER_ENTRY)
    ]
    if len(encoded) <= MAX_MESSAGE_BYTES // 2:
        return [encoded, *more]
    return [orjson.dumps(entry), *_feature_entries(variant, sampled, numbers, categories), *more]


def _feature_entries(
    variant: Json, sampled: Json, numbers: Mapping[str, Json], categories: Mapping[str, Json]
) -> list[bytes]:
    """Return features that are too many for one entry, in entries of their own that count nothing.

    The last one says of how many rows all of them are: only then is known which feature is missing.
    """
    columns = [("numbers", n, c) for n, c in numbers.items()] + [
        ("categories", n, c) for n, c in categories.items()
    ]
    entries: list[bytes] = []
    chosen: dict[str, Json] = {}
    size = 0
    for kind, name, column in columns:
        size += len(orjson.dumps(column)) + len(name.encode()) + 8
        if size > MAX_MESSAGE_BYTES // 2 and chosen:
            entries.append(orjson.dumps(variant | {"counts": {}} | chosen))
            chosen, size = {}, 0
        chosen.setdefault(kind, {})[name] = column
    return [*entries, orjson.dumps(variant | {"counts": {}} | sampled | chosen)]


def _counts(stats: BatchStats) -> dict[str, int]:
    return _present(
        {
            "predictions": len(stats.events),
            "failed": [event.prediction for event in stats.events].count(None),
            "labels": stats.labels,
            "outcomes": len(stats.seqs),
        }
        | stats.counts
    )


def _outcomes(stats: BatchStats, part: slice) -> Json:
    """Return the columns of the outcomes in ``part``; the segments of all go with the first part."""
    if not stats.seqs:
        return {}
    ts, errors, numbers = stats.ts[part], stats.errors[part], stats.seqs[part]
    entry: Json = {"ts_min": min(ts), "ts_max": max(ts)}
    if None in errors:
        with_error = [index for index, error in enumerate(errors) if error is not None]
        errors, numbers = [errors[index] for index in with_error], [numbers[index] for index in with_error]
    if errors:
        entry["errors"] = _errors(cast("list[float]", errors), stats.rules)
        entry["first_seq"] = numbers[0]
        if numbers[-1] - numbers[0] != len(numbers) - 1:
            entry["seqs"] = base64_text(_gaps(numbers))
    if part.start == 0:
        segments = _segment_errors(stats.segments)
        if segments:
            entry["segments"] = segments
    if not stats.rules.regression:
        actual = [label for label in stats.actuals[part] if label is not None]
        if actual:
            entry["actual"] = bounded_counts(counted(actual), _CLASSES)
    return entry


def _gaps(seqs: Sequence[int]) -> bytes:
    """Return the gaps between consecutive ones, as u32 little-endian."""
    if len(seqs) > FEW:
        return np.diff(np.array(seqs, dtype=np.int64)).astype("<u4").tobytes()
    return b"".join([(after - before).to_bytes(4, "little") for before, after in pairwise(seqs)])


def _errors(errors: Sequence[float], rules: ModelRules) -> Json:
    """Return an entry as ``schemas.vitals.Errors`` describes it."""
    if rules.regression:
        data = np.array(errors, dtype="<f8").tobytes()
        return {"kind": "f64", "count": len(errors), "data": base64_text(data)}
    return {"kind": "bits", "count": len(errors), "data": base64_text(_packed(errors))}


def _packed(errors: Sequence[float]) -> bytes:
    """Pack a bit per error, the first one highest, as ``numpy.packbits`` does."""
    if len(errors) > FEW:
        return np.packbits([error > 0 for error in errors]).tobytes()
    bits = 0
    for error in errors:
        bits = bits << 1 | (error > 0)
    size = -(-len(errors) // 8)
    return (bits << 8 * size - len(errors)).to_bytes(size, "big")


def _segment_errors(with_error: Sequence[tuple[Segments, float | None]]) -> dict[str, dict[str, Json]]:
    """Return outcomes and summed error per segment and value."""
    together: dict[Segments, list[float]] = {}
    for segments, error in with_error:
        if error is not None:
            together.setdefault(segments, []).append(error)
    counts: dict[str, Counter[str]] = {}
    sums: dict[str, dict[str, list[float]]] = {}
    for segments, errors in together.items():
        for name, value in segments:
            counts.setdefault(name, Counter())[value] += len(errors)
            sums.setdefault(name, {}).setdefault(value, []).append(math.fsum(errors))
    result: dict[str, dict[str, Json]] = {}
    for name, by_value in counts.items():
        kept, rest = most_frequent(by_value, NAMES)
        of_name: dict[str, Json] = {
            value: {"count": count, "error_sum": math.fsum(sums[name][value])}
            for value, count in kept.items()
        }
        if rest:
            dropped = [error for value, errors in sums[name].items() if value not in kept for error in errors]
            errors = [*dropped, *sums[name].get(OTHER, ())] if OTHER in kept else dropped
            of_name[OTHER] = {"count": rest + kept.get(OTHER, 0), "error_sum": math.fsum(errors)}
        result[name] = of_name
    return result


def _answers(stats: BatchStats, turn: int) -> Json:
    if stats.rules.regression:
        values = [
            float(event.prediction)
            for event in _sampled(stats.events, turn)
            if event.prediction is not None and not isinstance(event.prediction, (str, bool))
        ]
        return {"predicted_values": number_sketch(values)} if values else {}
    answers = [event.prediction for event in stats.events]
    names = [answer for answer in answers if type(answer) is str]
    if len(names) < len(answers):
        names += [class_name(one) for one in answers if one is not None and type(one) is not str]
    named = counted(names)
    if stats.rules.classes is not None:
        named = _by_class(named, stats.rules)
    return {"predicted": bounded_counts(named, _CLASSES)} if named else {}


def _by_class(named: Mapping[str, int], rules: ModelRules) -> Counter[str]:
    """Count the names by the declared class that each means."""
    counts: Counter[str] = Counter()
    for name, count in named.items():
        counts[rules.class_of(name)] += count
    return counts


def _sampled(items: Sequence[T], turn: int) -> Sequence[T]:
    """Return at most ``SAMPLE`` of them: one of each of as many runs of equal length, at a random place.

    A place that was the same in every run would see only some of what comes in turns, such as the two rows of
    each request. ``turn`` changes the places from batch to batch, and the same batch gives the same sample.
    """
    count = len(items)
    if count <= SAMPLE:
        return items
    within = np.take(_WITHIN_RUN, np.arange(turn, turn + SAMPLE), mode="wrap")
    places: list[int] = ((np.arange(SAMPLE) + within) * (count / SAMPLE)).astype(np.int64).tolist()
    return [items[place] for place in places]


def _present(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
