"""Vitals tell everything that passed: errors whole, the rest in summaries of bounded size."""

from __future__ import annotations

import base64
import random
from collections import Counter
from typing import NamedTuple

import numpy as np
import orjson
import pytest
from datasketches import kll_floats_sketch
from driftloop.schemas.base import FeatureValue
from driftloop.schemas.spec.model import Feature, ModelSpec
from driftloop.schemas.vitals import NumberSketch, Vitals
from driftloop.streams.join.matching.records import Segments, Variant
from driftloop.streams.join.matching.rules import ModelRules
from driftloop.streams.join.reading.plain import PredictionEvent
from driftloop.streams.join.state.position import Offsets
from driftloop.streams.join.vitals.builder import MAX_MESSAGE_BYTES, BatchStats, Covered, vitals_messages
from driftloop.streams.join.vitals.sketches import FEW, NAMES, SAMPLE
from driftloop.streams.monitor.observations import decode_record

from tests.support.join.world import entry_seqs

COVERED = Covered(3, Offsets(10, 30), Offsets(20, 40), 1_000, 2_000, 5, 9)
RULES = ModelRules.of(ModelSpec())


class SeenVitals(NamedTuple):
    seq: int
    error: float | None
    ts: int
    segments: Segments


def event(**features: FeatureValue) -> PredictionEvent:
    return PredictionEvent("a", "m", 1, 5, features, prediction="x", latency_ms=3.0)


def batch_stats_of(
    events: list[PredictionEvent],
    seen: list[SeenVitals] | None = None,
    *,
    rules: ModelRules = RULES,
    model: str = "m",
) -> BatchStats:
    stats = BatchStats(Variant(model, 1, "champion"), rules)
    stats.events += events
    for one in seen or []:
        stats.seqs.append(one.seq)
        stats.errors.append(one.error)
        stats.ts.append(one.ts)
        stats.delays.append(50)
        stats.actuals.append("x")
        if one.segments:
            stats.segments.append((one.segments, one.error))
    return stats


def messages(*all_stats: BatchStats) -> list[Vitals]:
    return [Vitals.decode(value) for value in vitals_messages(COVERED, all_stats, {"labels": 2})]


def sketched(sketch: NumberSketch) -> list[float]:
    if sketch.values is not None:
        assert sketch.kll is None
        return sorted(sketch.values)
    kll = kll_floats_sketch.deserialize(base64.b64decode(sketch.kll or ""))
    return sorted(kll.get_quantile((i + 0.5) / kll.n, True) for i in range(kll.n))


def outcome(seq: int, error: float | None, segments: Segments = ()) -> SeenVitals:
    return SeenVitals(seq, error, 100 + seq, segments)


def test_a_message_says_what_it_covers_and_what_belongs_to_no_model() -> None:
    (message,) = messages(batch_stats_of([event(x=1)]))
    assert message.partition == 3
    assert (message.predictions.start, message.predictions.end) == (10, 20)
    assert (message.labels.start, message.labels.end) == (30, 40)
    assert (message.append_min_ms, message.append_max_ms, message.ts_min, message.ts_max) == (
        1_000,
        2_000,
        5,
        9,
    )
    assert message.counts.labels == 2


@pytest.mark.parametrize("regression", [False, True])
def test_errors_come_back_with_their_seqs_whatever_lies_between(regression: bool) -> None:
    rules = ModelRules(regression=regression)
    draw = random.Random(1)
    seqs = sorted(draw.sample(range(100_000), 700))
    errors = [draw.random() if regression else float(draw.random() < 0.3) for _ in seqs]
    seen = [outcome(seq, error if seq % 7 else None) for seq, error in zip(seqs, errors, strict=True)]
    (message,) = messages(batch_stats_of([], seen, rules=rules))
    (entry,) = message.models
    assert entry.errors is not None
    kept = [(seq, error) for seq, error in zip(seqs, errors, strict=True) if seq % 7]
    assert list(zip(entry_seqs(entry), entry.errors.values().tolist(), strict=True)) == kept
    assert (entry.ts_min, entry.ts_max) == (100 + seqs[0], 100 + seqs[-1])


@pytest.mark.parametrize("count", [*range(1, 20), 200])
def test_few_values_are_summarised_as_many_are(count: int) -> None:
    """Values one by one or in a sketch, bits and gaps by hand or by numpy: a reader finds the same."""
    draw = random.Random(count)
    rows = [event(x=round(draw.uniform(-5, 5), 2), word=draw.choice("ab")) for _ in range(count)]
    seqs = sorted(draw.sample(range(1_000), count))
    errors = [float(draw.random() < 0.5) for _ in seqs]
    seen = [outcome(seq, error) for seq, error in zip(seqs, errors, strict=True)]
    (message,) = messages(batch_stats_of(rows, seen))
    (entry,) = message.models
    assert entry.numbers is not None
    assert entry.categories is not None
    assert entry.errors is not None
    assert sketched(entry.numbers["x"]) == pytest.approx(sorted(row.features["x"] for row in rows))
    assert entry.categories["word"].counts == Counter(row.features["word"] for row in rows)
    assert list(zip(entry_seqs(entry), entry.errors.values().tolist(), strict=True)) == list(
        zip(seqs, errors, strict=True)
    )
    assert (entry.numbers["x"].kll is None) == (count <= FEW)


def test_consecutive_seqs_are_given_by_the_first_alone() -> None:
    (message,) = messages(batch_stats_of([], [outcome(seq, 1.0) for seq in range(5, 15)]))
    assert (message.models[0].first_seq, message.models[0].seqs) == (5, None)


def test_features_are_summarised_by_what_the_spec_says_else_by_what_they_are() -> None:
    spec = ModelSpec(
        features={
            "code": Feature(type="category"),
            "flag": Feature(type="number"),
            "gone": Feature(type="number"),
            "secret": Feature(type="number", privacy="hash"),
        }
    )
    rows = [
        event(code=7, flag=True, free=1.5, word="a", secret="1f", odd=1),
        event(code=7.0, flag=None, free=2, word=None, secret="2e", odd="?"),
    ]
    (message,) = messages(batch_stats_of(rows, rules=ModelRules.of(spec)))
    (entry,) = message.models
    assert entry.numbers is not None
    assert entry.categories is not None
    assert {n: sketched(s) for n, s in entry.numbers.items() if s.values} == {
        "flag": [1.0], "free": [1.5, 2.0], "odd": [1.0],
    }  # fmt: skip
    assert (entry.numbers["flag"].nulls, entry.numbers["gone"].nulls) == (1, 2)
    assert {n: c.counts for n, c in entry.categories.items()} == {
        "code": {"7": 2}, "word": {"a": 1}, "secret": {"1f": 1, "2e": 1}, "odd": {"?": 1},
    }  # fmt: skip
    assert entry.categories["word"].nulls == 1


def test_a_sample_is_bounded_and_a_sketch_gives_its_values_back() -> None:
    rows = [event(x=float(i)) for i in range(10_000)]
    (message,) = messages(batch_stats_of(rows))
    (entry,) = message.models
    assert entry.numbers is not None
    values = sketched(entry.numbers["x"])
    assert [value // 50 for value in values] == list(range(SAMPLE))  # one of each run of 50
    assert len({value % 50 for value in values}) > 30  # at places of its own: rows may come in turns
    assert (entry.counts.predictions, entry.rows) == (10_000, SAMPLE)


def test_a_sample_takes_other_places_in_every_batch() -> None:
    stats = batch_stats_of([event(x=float(i)) for i in range(1_000)])
    seen: Counter[float] = Counter()
    for start in range(0, 200_000, 1_000):
        covered = COVERED._replace(start=Offsets(start, 0))
        (value,) = vitals_messages(covered, [stats], {})
        numbers = Vitals.decode(value).models[0].numbers
        assert numbers is not None
        seen.update(sketched(numbers["x"]))
    assert len(seen) == 1_000  # each was in a sample
    assert max(seen.values()) < 80  # of 200; 40 are expected


def test_only_the_last_entry_of_a_batchs_features_says_of_how_many_rows_they_are() -> None:
    wide = [event(**{f"feature-{f}": float(f + i) for f in range(1_500)}) for i in range(SAMPLE)]
    values = vitals_messages(COVERED, [batch_stats_of(wide)], {})
    entries = [entry for value in values for entry in Vitals.decode(value).models]
    with_features = [entry.rows for entry in entries if entry.numbers]
    assert len(with_features) > 1
    assert with_features == [0] * (len(with_features) - 1) + [SAMPLE]
    assert [entry.rows for entry in entries if not entry.numbers] == [0]


def test_rows_without_any_feature_are_counted() -> None:
    (message,) = messages(batch_stats_of([event()] * 7))
    (entry,) = message.models
    assert (entry.rows, entry.numbers, entry.categories) == (7, None, None)


def test_a_declared_flag_is_named_as_one_whatever_it_was_sent_as() -> None:
    spec = ModelSpec(features={"flag": Feature(type="bool")})
    rows = [event(flag=value) for value in (True, 1, 1.0, False, 0, None, "true")]
    (message,) = messages(batch_stats_of(rows, rules=ModelRules.of(spec)))
    assert message.models[0].categories is not None
    flag = message.models[0].categories["flag"]
    assert (flag.counts, flag.nulls) == ({"true": 3, "false": 2, '"true"': 1}, 1)


def test_the_same_batch_gives_the_same_bytes() -> None:
    rows = [event(x=i * 0.5, c=f"c{i % 300}") for i in range(3_000)]
    seen = [outcome(i, float(i % 2), (("s", f"v{i % 150}"),)) for i in range(3_000)]
    once, again = (vitals_messages(COVERED, [batch_stats_of(rows, seen)], {}) for _ in range(2))
    assert once == again


def test_names_are_bounded_and_nothing_is_dropped_from_the_sums() -> None:
    rows = [event(c=f"c{i}", long="y" * 500) for i in range(200)]
    seen = [outcome(i, 1.0, (("s", f"v{i}" if i else "other"),)) for i in range(300)]
    (message,) = messages(batch_stats_of(rows, seen))
    (entry,) = message.models
    assert entry.categories is not None
    assert entry.segments is not None
    category = entry.categories["c"]
    assert (len(category.counts), sum(category.counts.values()) + category.other) == (NAMES, 200)
    assert (entry.categories["long"].counts, entry.categories["long"].other) == ({}, 200)
    assert sum(s.count for s in entry.segments["s"].values()) == 300
    assert sum(s.error_sum for s in entry.segments["s"].values()) == 300.0


def test_large_batches_are_split_below_the_limit_and_add_up() -> None:
    draw = np.random.default_rng(1)
    rules = ModelRules(regression=True)
    wide = [event(**{f"feature-{f}": float(f + i) for f in range(1_500)}) for i in range(SAMPLE)]
    seen = [outcome(2 * i, float(draw.random())) for i in range(40_000)]
    all_stats = [
        batch_stats_of(wide, seen, rules=rules),
        *(batch_stats_of([event(x=1)], model=f"n{i}") for i in range(900)),
    ]
    values = vitals_messages(COVERED, all_stats, {"labels": 2})
    assert all(len(value) <= MAX_MESSAGE_BYTES for value in values)
    parts = [Vitals.decode(value) for value in values]
    assert [part.part for part in parts] == list(range(len(parts)))
    assert sum(part.counts.labels for part in parts) == 2
    entries = [entry for part in parts for entry in part.models if entry.model == "m"]
    assert sum(entry.counts.predictions for entry in entries) == SAMPLE
    assert len({name for entry in entries for name in entry.numbers or {}}) == 1_500
    seqs = [seq for entry in entries for seq in entry_seqs(entry)]
    assert seqs == [2 * i for i in range(40_000)]
    assert {entry.model for part in parts for entry in part.models} == {"m", *(f"n{i}" for i in range(900))}


def test_numbers_beyond_float32_stay_finite() -> None:
    (message,) = messages(batch_stats_of([event(x=1e300), event(x=-(2**63))]))
    assert message.models[0].numbers is not None
    assert np.isfinite(sketched(message.models[0].numbers["x"])).all()


def test_the_monitor_reads_what_the_joiner_writes() -> None:
    rows = [event(x=1.5, c="a")]
    values = vitals_messages(COVERED, [batch_stats_of(rows, [outcome(4, 1.0, (("s", "v"),))])], {})
    (seen,) = decode_record(values[0])  # type: ignore[misc]
    assert (seen.model, seen.partition, seen.seqs.tolist(), seen.errors.tolist()) == ("m", 3, [4], [1.0])
    assert orjson.loads(values[0])["vitals"] == 1
