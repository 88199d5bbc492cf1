"""No promotion without proof: better candidates pass, equal and worse ones do not, and all of it replays."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from driftloop.models.evaluation.experiment import MIN_ROWS, ExperimentInput, run_experiment
from driftloop.models.evaluation.result import ExperimentResult
from driftloop.models.evaluation.split import lineage, split
from driftloop.models.formats.loaders import load
from driftloop.models.registry.self_test import check_self_test
from driftloop.models.rows import LabelledRow
from driftloop.schemas.errors import ArtifactError
from driftloop.schemas.serving import Manifest
from driftloop.schemas.spec.model import ModelSpec, WindowRules
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models.worlds import ELEC2, elec2, manifest_of, world

SPEC = ModelSpec.model_validate({"learner": {"kind": "hgb", "max_iter": 30}, "segments": ["colour"]})
BEFORE = tuple(world(2000, seed=1))
FLIPPED = tuple(world(1000, seed=2, flipped=True, start=2000))
SAME = tuple(world(1000, seed=3, start=2000))


def experiment(
    spec: ModelSpec = SPEC,
    before: tuple[LabelledRow, ...] = BEFORE,
    after: tuple[LabelledRow, ...] = FLIPPED,
    champion: tuple[Manifest, bytes] | None = None,
    **more: Any,
) -> ExperimentResult:
    return run_experiment(ExperimentInput(spec, before, after, champion, seed=7, **more))


def as_champion(result: ExperimentResult) -> tuple[Manifest, bytes]:
    assert result.candidate is not None
    return manifest_of(result.candidate, [row.features for row in BEFORE[:20]]), result.candidate.data


@pytest.fixture(scope="module")
def first() -> ExperimentResult:
    return experiment(before=(), after=BEFORE)


@pytest.fixture(scope="module")
def champion(first: ExperimentResult) -> tuple[Manifest, bytes]:
    return as_champion(first)


@pytest.fixture(scope="module")
def after_flip(champion: tuple[Manifest, bytes]) -> ExperimentResult:
    return experiment(champion=champion)


def assert_refused(result: ExperimentResult, why: str) -> None:
    assert not result.passed
    assert why in result.why


def gate(result: ExperimentResult, name: str) -> Any:
    return next(gate for gate in result.gates if gate.gate == name)


def test_the_first_version_must_beat_the_constant_answer(first: ExperimentResult) -> None:
    assert first.passed, first.why
    assert [gate.gate for gate in first.gates] == ["baseline", "classes", "latency"]
    assert first.metrics["accuracy.candidate"].low > first.metrics["accuracy.baseline"].high
    assert first.parameters["rows"] == "after"
    assert first.lineage is not None
    assert (first.lineage.rows, first.lineage.holdout_rows, first.lineage.old_rows) == (2000, 600, 0)


def test_noise_makes_no_first_version() -> None:
    shuffled = [row.label for row in BEFORE]
    random.Random(1).shuffle(shuffled)
    rows = tuple(replace(row, label=label) for row, label in zip(BEFORE, shuffled, strict=True))
    assert_refused(experiment(before=(), after=rows), "refused by baseline")


def test_after_a_change_the_candidate_beats_the_stale_champion(after_flip: ExperimentResult) -> None:
    assert after_flip.passed, after_flip.why
    assert [gate.gate for gate in after_flip.gates] == ["significance", "fairness", "classes", "latency"]
    assert after_flip.metrics["gain"].low > 0.2
    assert after_flip.metrics["accuracy.candidate"].value > 0.7
    assert after_flip.parameters["rows"] == "after"  # what was true before is false now


def test_without_a_change_the_candidate_is_no_better_and_is_refused(champion: tuple[Manifest, bytes]) -> None:
    result = experiment(after=SAME, champion=champion)
    assert_refused(result, "refused by significance")
    assert result.candidate is not None
    assert result.parameters["rows"] == "mix"  # more rows of the same world help more


def test_an_equal_candidate_is_refused(
    champion: tuple[Manifest, bytes], after_flip: ExperimentResult
) -> None:
    again = experiment(champion=as_champion(after_flip))
    assert again.candidate == after_flip.candidate
    assert not again.passed
    assert gate(again, "significance").evidence["gain"] == 0.0
    assert gate(again, "significance").value == 1.0


def test_the_same_input_gives_the_same_result(
    after_flip: ExperimentResult, champion: tuple[Manifest, bytes]
) -> None:
    shuffled_before, shuffled_after = list(BEFORE), list(FLIPPED)
    random.Random(3).shuffle(shuffled_before)
    random.Random(4).shuffle(shuffled_after)
    ticks = itertools.count(0, 1_000)
    given = ExperimentInput(SPEC, tuple(shuffled_before), tuple(shuffled_after), champion, seed=7)
    one = run_experiment(given, clock_ns=lambda: next(ticks))
    ticks = itertools.count(0, 1_000)
    assert run_experiment(given, clock_ns=lambda: next(ticks)) == one
    # The order in which rows were read does not matter either; only timings may differ.
    assert one.candidate == after_flip.candidate
    assert one.lineage == after_flip.lineage
    assert one.metrics == after_flip.metrics
    assert one.gates[:2] == after_flip.gates[:2]


def test_the_hold_out_is_newest_and_no_model_was_trained_on_it(champion: tuple[Manifest, bytes]) -> None:
    window = SPEC.window
    saw = frozenset(row.prediction_id for row in FLIPPED[-40:-20])
    parts = split(BEFORE, FLIPPED, window, champion_saw=saw)
    held = {row.prediction_id for row in parts.holdout}
    assert len(held) == 300
    assert not held & saw
    used = (*parts.older, *parts.training)
    assert not held & {row.prediction_id for row in used}
    assert max(row.ts for row in used) < min(row.ts for row in parts.holdout)
    assert parts.before_validation() + parts.validation() == parts.training
    assert max(row.ts for row in parts.before_validation()) < min(row.ts for row in parts.validation())


@settings(max_examples=50, deadline=None)
@given(
    old_rows=st.integers(0, 400), max_rows=st.integers(100, 900), holdout=st.floats(0.05, 0.9),
    count=st.integers(0, 300), older=st.integers(0, 300),
)  # fmt: skip
def test_the_window_bounds_what_is_used(
    old_rows: int, max_rows: int, holdout: float, count: int, older: int
) -> None:
    window = WindowRules(old_rows=old_rows, max_rows=max_rows, holdout=holdout)
    parts = split(BEFORE[:older], FLIPPED[:count], window)
    assert len(parts.older) <= min(old_rows, older)
    assert len(parts.older) + len(parts.training) <= max_rows
    assert len(parts.training) + len(parts.holdout) == min(count, max_rows)
    assert list(parts.older) == list(BEFORE[:older])[older - len(parts.older) :]


def test_lineage_names_every_row_that_was_used(after_flip: ExperimentResult) -> None:
    parts = split(BEFORE, FLIPPED, SPEC.window)
    alone = lineage(parts, old_rows=0, validation_rows=140)
    assert alone == after_flip.lineage
    assert (alone.rows, alone.train_rows, alone.validation_rows, alone.holdout_rows) == (1000, 560, 140, 300)
    assert alone.partitions == {"0": (2000, 2999), "1": (2001, 2997), "2": (2002, 2998)}
    mixed = lineage(parts, old_rows=2000, validation_rows=140)
    assert (mixed.rows, mixed.old_rows, mixed.train_rows) == (3000, 2000, 2560)
    assert mixed.digest != alone.digest
    relabelled = replace(parts, holdout=(replace(parts.holdout[0], label="other"), *parts.holdout[1:]))
    assert lineage(relabelled, old_rows=0, validation_rows=140).digest != alone.digest


def test_the_reference_and_self_test_are_of_what_was_trained(after_flip: ExperimentResult) -> None:
    assert after_flip.candidate is not None
    assert after_flip.reference is not None
    check_self_test(load(after_flip.candidate, after_flip.candidate.data), after_flip.self_test)
    assert len(after_flip.self_test) == 8
    assert after_flip.reference.accuracy == pytest.approx(after_flip.metrics["accuracy.candidate"].value)
    assert after_flip.reference.rows == 1000
    assert set(after_flip.reference.numbers) == {"x", "z"}
    assert set(after_flip.reference.categories) == {"colour", "big"}
    assert set(after_flip.reference.segments["colour"]) == {"red", "green", "blue"}
    assert after_flip.reference.latency_p95_ms == gate(after_flip, "latency").value


def test_a_candidate_that_fails_one_segment_is_refused_by_fairness(champion: tuple[Manifest, bytes]) -> None:
    def twist(row: LabelledRow) -> LabelledRow:
        # The world flips for red and green; for blue it does not, and nothing the model sees shows blue.
        return replace(
            row, features={**row.features, "colour": "grey"}, segments={"colour": row.segments["colour"]}
        )

    blue = [row for row in world(4000, seed=5) if row.features["colour"] == "blue"][:400]
    others = [row for row in world(2600, seed=6, flipped=True) if row.features["colour"] != "blue"][:1600]
    mixed = [twist(row) for row in (*blue, *others)]
    random.Random(1).shuffle(mixed)
    after = tuple(
        replace(row, prediction_id=f"q{i:05d}", ts=3_000_000 + i, seq=3000 + i) for i, row in enumerate(mixed)
    )
    result = experiment(after=after, champion=champion)
    assert gate(result, "significance").passed
    assert not gate(result, "fairness").passed
    assert "colour=blue loses" in gate(result, "fairness").reason
    assert_refused(result, "refused by fairness")


def three(rows: tuple[LabelledRow, ...]) -> tuple[LabelledRow, ...]:
    """Where there were two classes, the blue ones are a third."""
    return tuple(replace(row, label="blue") if row.features["colour"] == "blue" else row for row in rows)


def test_a_candidate_that_cannot_answer_a_declared_class_any_more_is_refused() -> None:
    spec = SPEC.model_copy(update={"classes": ("yes", "blue", "no")})
    champion = as_champion(experiment(spec, before=(), after=three(BEFORE)))
    assert champion[0].classes == ("yes", "blue", "no")
    without = tuple(row for row in FLIPPED if row.features["colour"] != "blue")
    refused = experiment(spec, before=(), after=without, champion=champion)
    assert gate(refused, "significance").passed
    assert not refused.passed
    assert "classes: cannot answer 'blue', which the champion answers" in refused.why
    taken_out = experiment(SPEC.model_copy(update={"classes": ("yes", "no")}), (), without, champion)
    assert taken_out.passed
    undeclared = experiment(SPEC, (), without, champion)
    assert undeclared.passed
    assert "never 'blue'" in gate(undeclared, "classes").reason
    kept = experiment(spec, before=(), after=three(FLIPPED), champion=champion)
    assert gate(kept, "classes").passed


def test_a_champion_is_evaluated_by_what_it_means_however_its_classes_were_spelled(
    champion: tuple[Manifest, bytes], after_flip: ExperimentResult
) -> None:
    before, after = (
        tuple(replace(row, label=str(row.label).upper()) for row in rows) for rows in (BEFORE, FLIPPED)
    )
    spec = SPEC.model_copy(update={"classes": ("NO", "YES")})
    result = experiment(spec, before, after, champion)
    assert result.metrics["accuracy.champion"] == after_flip.metrics["accuracy.champion"]


def test_several_learners_compete_and_the_best_on_validation_wins(champion: tuple[Manifest, bytes]) -> None:
    spec = ModelSpec.model_validate(
        {"learner": [{"kind": "river"}, {"kind": "hgb", "max_iter": 30}], "segments": ["colour"]}
    )
    result = experiment(spec=spec, champion=champion)
    scores: dict[str, float] = result.parameters["validation"]
    assert set(scores) == {"0:river/after", "1:hgb/after", "2:river/mix", "3:hgb/mix"}
    best = min(scores, key=scores.__getitem__)
    assert best.partition(":")[2] == f"{result.learner}/{result.parameters['rows']}"


def test_a_cost_matrix_adds_its_gate(champion: tuple[Manifest, bytes]) -> None:
    gates = SPEC.gates.model_validate({"cost": {"matrix": {"yes": {"no": 5.0}}}})
    spec = SPEC.model_copy(update={"gates": gates})
    result = experiment(spec=spec, champion=champion)
    assert [gate.gate for gate in result.gates] == ["significance", "fairness", "classes", "latency", "cost"]
    assert result.metrics["cost.candidate"].value < result.metrics["cost.champion"].value


def test_a_slow_candidate_is_refused(champion: tuple[Manifest, bytes]) -> None:
    spec = SPEC.model_copy(update={"gates": SPEC.gates.model_validate({"latency": {"max_p95_ms": 1e-6}})})
    assert_refused(experiment(spec=spec, champion=champion), "refused by latency")


def test_a_regression_is_evaluated_by_its_error() -> None:
    def numbers(rows: tuple[LabelledRow, ...], sign: float) -> tuple[LabelledRow, ...]:
        return tuple(
            replace(row, label=sign * float(row.features["x"] or 0) + 0.1 * (row.seq % 7)) for row in rows
        )

    spec = ModelSpec.model_validate({"task": "regression", "learner": {"kind": "hgb", "max_iter": 30}})
    started = experiment(spec=spec, before=(), after=numbers(BEFORE, 1.0))
    assert started.passed, started.why
    result = experiment(spec=spec, after=numbers(FLIPPED, -1.0), before=(), champion=as_champion(started))
    assert result.passed, result.why
    assert result.metrics["mean_error.candidate"].high < result.metrics["mean_error.champion"].low
    assert result.reference is not None
    assert result.reference.mean_error == pytest.approx(result.metrics["mean_error.candidate"].value)
    again = experiment(spec=spec, after=numbers(FLIPPED, -1.0), before=(), champion=as_champion(result))
    assert not again.passed


def test_rows_of_the_wrong_type_are_left_out_and_counted(champion: tuple[Manifest, bytes]) -> None:
    typed = ModelSpec.model_validate({"features": {"x": "number", "colour": "category"}}).features
    spec = SPEC.model_copy(update={"features": typed})
    bad = tuple(replace(row, features={**row.features, "x": "broken"}) for row in FLIPPED[:37])
    result = experiment(spec=spec, after=(*bad, *FLIPPED[37:]), champion=None)
    assert "37 rows left out" in result.why
    assert result.lineage is not None
    assert result.lineage.rows == 963


def test_requests_that_the_champion_cannot_answer_count_against_it(champion: tuple[Manifest, bytes]) -> None:
    # Upstream renamed the levels of x from numbers to words: the champion fails each such request.
    after = tuple(
        replace(row, features={**row.features, "x": "high" if float(row.features["x"] or 0) > 0 else "low"})
        for row in SAME
    )
    result = experiment(before=(), after=after, champion=champion)
    assert result.passed, result.why
    assert result.metrics["accuracy.champion"].value == 0.0


@pytest.mark.parametrize("count", [0, 1, MIN_ROWS, 13])
def test_too_few_rows_are_said_to_be_too_few(count: int, champion: tuple[Manifest, bytes]) -> None:
    result = experiment(after=FLIPPED[:count], champion=champion)
    assert_refused(result, f"too few rows: {count} labelled after the change")
    assert result.candidate is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"label": "yes"}, "nothing could be learned: hgb/after: needs labels of at least two classes"),
        ({"features": {}}, "the rows have no features to learn from"),
    ],
)
def test_nothing_is_learned_from_one_class_or_without_features_and_the_run_says_why(
    change: dict[str, Any], why: str
) -> None:
    assert_refused(experiment(before=(), after=tuple(replace(row, **change) for row in SAME)), why)


def test_a_champion_that_cannot_be_loaded_is_an_error(champion: tuple[Manifest, bytes]) -> None:
    with pytest.raises(ArtifactError):
        experiment(champion=(champion[0], b"junk"))


def test_the_record_names_what_a_result_depends_on(first: ExperimentResult) -> None:
    assert {"python", "numpy", "scikit-learn", "onnxruntime", "driftloop"} <= set(first.packages)


@pytest.mark.skipif(not ELEC2.exists(), reason="the electricity data lie beside the checkout, not in it")
def test_on_electricity_prices_a_candidate_after_the_change_beats_a_stale_champion() -> None:
    rows = tuple(elec2(23_000))
    spec = ModelSpec.model_validate({"learner": {"kind": "hgb", "max_iter": 60}})
    started = experiment(spec=spec, before=(), after=rows[:4000])
    assert started.passed, started.why
    result = experiment(
        spec=spec, before=rows[:20_000], after=rows[20_000:22_000], champion=as_champion(started)
    )
    assert result.passed, result.why
    assert result.metrics["gain"].low > 0
    # What was promoted goes on being better on rows that neither has seen.
    assert result.candidate is not None
    later = [row.features for row in rows[22_000:23_000]]
    truth = [row.label for row in rows[22_000:]]

    def right(manifest: Manifest, data: bytes) -> int:
        answers = load(manifest, data).predict(later)
        return sum(answer.prediction == label for answer, label in zip(answers, truth, strict=True))

    assert right(*as_champion(result)) > right(*as_champion(started)) + 50
    again = experiment(
        spec=spec, before=rows[:20_000], after=rows[20_000:22_000], champion=as_champion(result)
    )
    assert not again.passed


def test_a_class_that_nobody_declared_is_one_however_its_labels_are_spelled(first: ExperimentResult) -> None:
    """Two services label the same truth as true and as 1.0: the model has two classes, not four."""
    spellings = {"no": ("0", "0", "0.0", "false"), "yes": ("1", "1", "1.0", "true")}
    rows = tuple(replace(row, label=spellings[str(row.label)][i % 4]) for i, row in enumerate(BEFORE))
    result = experiment(before=(), after=rows)
    assert result.classes == ("0", "1")
    assert result.metrics["accuracy.candidate"] == first.metrics["accuracy.candidate"]
