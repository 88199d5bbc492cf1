"""Each gate says no to what it is there for, and not to chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from driftloop.models.evaluation import gates
from driftloop.models.evaluation.paired_errors import PairedErrors, costs_of, squared_errors
from driftloop.models.evaluation.statistics import block_bootstrap, holm, mcnemar, wilson
from driftloop.models.evaluation.timing import REQUESTS, time_single_rows
from driftloop.models.formats.features import Row
from driftloop.models.formats.fitted import Answer
from driftloop.schemas.errors import SpecError
from driftloop.schemas.spec.model import Cost, Fairness, LatencyGate, Significance
from driftloop.schemas.values.classes import Classes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm


@given(wins=st.integers(0, 400), losses=st.integers(0, 400))
def test_mcnemar_is_the_mid_p_of_the_exact_binomial_test(wins: int, losses: int) -> None:
    p = mcnemar(wins, losses)
    if wins + losses == 0:
        assert p == 1.0
        return
    games = wins + losses
    upper = binomtest(wins, games, 0.5, alternative="greater").pvalue
    above = binomtest(wins + 1, games, 0.5, alternative="greater").pvalue if wins < games else 0.0
    assert p == pytest.approx((upper + above) / 2, abs=1e-12)
    assert p + mcnemar(losses, wins) == pytest.approx(1.0)


@given(successes=st.integers(0, 500), more=st.integers(0, 500))
def test_wilsons_interval_is_scipys(successes: int, more: int) -> None:
    assume(successes + more > 0)
    interval = wilson(successes, successes + more)
    expected = binomtest(successes, successes + more).proportion_ci(method="wilson")
    assert interval.low == pytest.approx(expected.low, abs=1e-9)
    assert interval.high == pytest.approx(expected.high, abs=1e-9)


def test_nothing_counted_is_nothing_known() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_makes_a_finding_likelier_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
    if p_values:
        assert corrected[order[0]] == pytest.approx(min(1.0, min(p_values) * len(p_values)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_stepping_down_by_hand_rejects(p_values: list[float]) -> None:
    alpha = 0.05
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: (p_values[i], i))):
        if p_values[i] * (len(p_values) - rank) >= alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p < alpha} == rejected


def test_the_bootstrap_agrees_with_theory_on_independent_rows() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(0.08, 1, size=900)
    p, interval = block_bootstrap(differences, seed=3)
    z = differences.mean() / (differences.std() / 30)
    assert p == pytest.approx(norm.sf(z), abs=0.02)
    assert interval.low == pytest.approx(differences.mean() - 1.96 / 30, abs=0.02)
    assert block_bootstrap(differences, seed=3) == (p, interval)


def test_neighbours_that_share_their_luck_count_for_less() -> None:
    luck = np.random.default_rng(2).normal(size=60)
    shared = np.repeat((luck - luck.mean()) / luck.std() + 0.25, 10)
    blocks, _ = block_bootstrap(shared, seed=1)
    independent, _ = block_bootstrap(np.random.default_rng(3).permutation(shared), seed=1)
    assert independent < 0.001 < 0.004 < blocks


@pytest.mark.parametrize(
    ("differences", "p"), [([], 1.0), ([0.5], 0.5), ([0.0] * 9, 1.0), ([1.0] * 4, 1 / 16), ([-1.0] * 4, 1.0)]
)
def test_without_spread_the_bootstrap_is_a_sign_test(differences: list[float], p: float) -> None:
    assert block_bootstrap(np.array(differences), seed=1)[0] == p


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_bootstrap_never_calls_a_worse_candidate_better(seed: int) -> None:
    differences = np.random.default_rng(seed).exponential(1.0, size=200) - 1.2
    assume(differences.mean() < 0)
    assert block_bootstrap(differences, seed=seed)[0] > 0.5


def paired(candidate: list[bool], incumbent: list[bool], segments: list[str] | None = None) -> PairedErrors:
    """Binary; True: was right."""
    labels = ["yes" if i % 2 else "no" for i in range(len(candidate))]
    wrong = {"yes": "no", "no": "yes"}

    def said(right: list[bool]) -> list[str]:
        return [label if ok else wrong[label] for label, ok in zip(labels, right, strict=True)]

    named = [{"s": name} for name in segments] if segments else [{}] * len(labels)
    return PairedErrors("classification", labels, named, said(candidate), said(incumbent))


def numbers(candidate: list[float | None], incumbent: list[float | None]) -> PairedErrors:
    """Regression of zeros, so that a prediction is its own error."""
    return PairedErrors("regression", [0.0] * len(candidate), [{}] * len(candidate), candidate, incumbent)


def test_a_clear_gain_is_significant_and_none_is_not() -> None:
    better = paired([True] * 180 + [False] * 20, [True] * 150 + [False] * 50)
    gate = gates.significance(Significance(), better, cost=None, seed=1)
    assert gate.passed
    assert gate.evidence == {"gain": pytest.approx(0.15), "rows": 200}
    assert gate.value == pytest.approx(mcnemar(30, 0))
    assert "alone right on 30 rows, the champion on 0" in gate.reason
    for same in (paired([True] * 9, [True] * 9), paired([True, False] * 50, [False, True] * 50)):
        assert not gates.significance(Significance(), same, cost=None, seed=1).passed


def test_a_gain_below_the_least_asked_is_refused_though_certain() -> None:
    better = paired([True] * 2000, [True] * 1960 + [False] * 40)
    assert gates.significance(Significance(min_gain=0.01), better, cost=None, seed=1).passed
    assert not gates.significance(Significance(min_gain=0.03), better, cost=None, seed=1).passed


def test_equal_candidates_pass_about_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(5)
    for test in ("mcnemar", "bootstrap"):
        passed = 0
        for seed in range(200):
            both = paired((rng.random(150) < 0.7).tolist(), (rng.random(150) < 0.7).tolist())
            passed += gates.significance(Significance(test=test), both, cost=None, seed=seed).passed
        assert passed <= 22  # of 200 at alpha 0.05: 10 expected, more than 22 once in 5,000


def test_a_regression_is_compared_by_relative_errors() -> None:
    rng = np.random.default_rng(1)
    noise = rng.exponential(1, size=300)
    better = numbers((noise * 0.8).tolist(), noise.tolist())
    gate = gates.significance(Significance(min_gain=0.15), better, cost=None, seed=1)
    assert gate.passed
    assert gate.evidence["gain"] == pytest.approx(0.2)
    assert not gates.significance(Significance(min_gain=0.25), better, cost=None, seed=1).passed
    with pytest.raises(SpecError, match="bootstrap"):
        gates.significance(Significance(test="mcnemar"), better, cost=None, seed=1)


def test_the_bootstrap_looks_at_costs_where_there_are_costs() -> None:
    # Right less often, but never in the way that costs 50.
    labels = ["fraud"] * 30 + ["fine"] * 270
    champion = ["fine"] * 300
    candidate = ["fraud"] * 30 + ["fraud"] * 60 + ["fine"] * 210
    both = PairedErrors("classification", labels, [{}] * 300, candidate, champion)
    cost = Cost(matrix={"fraud": {"fine": 50.0}})
    assert gates.significance(Significance(test="bootstrap"), both, cost=cost, seed=1).passed
    assert not gates.significance(Significance(test="auto"), both, cost=cost, seed=1).passed


def test_a_segment_that_loses_stops_a_candidate_that_gains_overall() -> None:
    right = [True] * 300 + [True] * 60 + [False] * 40
    before = [True] * 200 + [False] * 100 + [True] * 100
    both = paired(right, before, ["big"] * 300 + ["small"] * 100)
    gate = gates.fairness(Fairness(), both, alpha=0.05, seed=1)
    assert not gate.passed
    assert gate.value == pytest.approx(0.4)
    assert "s=small loses 0.4000" in gate.reason
    assert [(one["segment"], one["loss"]) for one in gate.evidence["segments"]] == [
        ("s=small", pytest.approx(0.4)), ("s=big", pytest.approx(-1 / 3)),
    ]  # fmt: skip
    assert gates.fairness(Fairness(max_loss=0.5), both, alpha=0.05, seed=1).passed
    tolerant = gates.fairness(Fairness(min_rows=101), both, alpha=0.05, seed=1)
    assert tolerant.passed
    assert "1 too small to compare" in tolerant.reason


def test_chance_in_many_small_segments_stops_nobody() -> None:
    rng = np.random.default_rng(8)
    segments = [f"s{i % 20}" for i in range(1200)]
    stopped = losing = 0
    for seed in range(100):
        both = paired((rng.random(1200) < 0.72).tolist(), (rng.random(1200) < 0.7).tolist(), segments)
        gate = gates.fairness(Fairness(), both, alpha=0.05, seed=seed)
        stopped += not gate.passed
        losing += gate.value is not None and gate.value > 0.05
    assert losing > 90  # some segment is down by more than allowed nearly always
    assert stopped <= 12


def test_segments_of_a_regression_lose_relatively() -> None:
    errors = [1.0] * 100
    both = PairedErrors(
        "regression", [0.0] * 200, [{"s": "a"}] * 100 + [{"s": "b"}] * 100,
        [0.5] * 100 + [1.5 + i / 1000 for i in range(100)], errors + errors,
    )  # fmt: skip
    gate = gates.fairness(Fairness(), both, alpha=0.05, seed=1)
    assert not gate.passed
    assert "s=b" in gate.reason


def test_a_slow_candidate_is_refused_by_the_limit_and_by_the_ratio() -> None:
    rule = LatencyGate(max_p95_ms=20, max_ratio=3)
    fast, slow, slower = np.full(100, 0.3), np.full(100, 5.0), np.full(100, 25.0)
    assert gates.latency(rule, fast, None).passed
    assert gates.latency(rule, slow, None).passed
    assert not gates.latency(rule, slower, None).passed
    assert not gates.latency(rule, slower, slower).passed
    assert gates.latency(rule, slow, np.full(100, 2.0)).passed
    assert not gates.latency(rule, slow, np.full(100, 1.0)).passed
    # Below a millisecond a ratio is noise.
    assert gates.latency(rule, np.full(100, 0.9), np.full(100, 0.01)).passed


def test_a_candidate_that_is_right_more_often_may_cost_too_much() -> None:
    labels = ["fraud"] * 20 + ["fine"] * 80
    champion = ["fraud"] * 30 + ["fine"] * 70
    candidate = ["fine"] * 5 + ["fraud"] * 15 + ["fine"] * 80
    both = PairedErrors("classification", labels, [{}] * 100, candidate, champion)
    assert (both.candidate_errors.sum(), both.incumbent_errors.sum()) == (5, 10)
    costly = Cost(matrix={"fraud": {"fine": 50.0}, "fine": {"fraud": 1.0}})
    gate = gates.business_cost(costly, both)
    assert not gate.passed
    assert (gate.value, gate.threshold) == (2.5, 0.1)
    assert gates.business_cost(Cost(), both).passed
    assert gates.business_cost(costly.model_copy(update={"max_increase": 30.0}), both).passed
    assert costs_of(costly, ["fraud", None], ["fraud", "fine"]).tolist() == [0.0, 1.0]


def test_with_no_champion_the_majority_class_must_be_beaten() -> None:
    knows = paired([True] * 180 + [False] * 20, [i % 2 == 0 for i in range(200)])
    none = [Answer("yes")] * 200
    assert gates.baseline(Significance(), knows, none, {}, seed=1).passed
    guesses = paired([i % 3 == 0 for i in range(200)], [i % 2 == 0 for i in range(200)])
    assert not gates.baseline(Significance(), guesses, none, {}, seed=1).passed


def test_a_rare_class_may_be_known_by_its_odds_alone() -> None:
    labels = ["fraud" if i % 40 == 0 else "fine" for i in range(2000)]
    majority = ["fine"] * 2000
    both = PairedErrors("classification", labels, [{}] * 2000, majority, majority)
    shares = {"fine": 0.975, "fraud": 0.025}
    odds = [
        Answer("fine", {"fine": 0.6, "fraud": 0.4} if label == "fraud" else {"fine": 0.99, "fraud": 0.01})
        for label in labels
    ]
    gate = gates.baseline(Significance(), both, odds, shares, seed=1)
    assert gate.passed
    assert "class shares" in gate.reason
    know_nothing = [Answer("fine", shares)] * 2000
    assert not gates.baseline(Significance(), both, know_nothing, shares, seed=1).passed


def test_a_failed_request_is_as_bad_as_the_worst_answer() -> None:
    both = numbers([1.0, 2.0, 3.0], [None, 4.0, 5.0])
    assert both.incumbent_errors.tolist() == [5.0, 4.0, 5.0]
    assert paired([True], [True]).gains.tolist() == [0.0]
    classes = PairedErrors("classification", ["a", "a"], [{}, {}], ["a", "a"], [None, "a"])
    assert classes.gains.tolist() == [1.0, 0.0]


def test_briers_score_runs_from_sure_and_right_to_sure_and_wrong() -> None:
    answers = [
        Answer("a", {"a": 1.0, "b": 0.0}), Answer("a", {"a": 0.5, "b": 0.5}),
        Answer("b", {"a": 0.0, "b": 1.0}), Answer("a"), Answer("b"),
    ]  # fmt: skip
    assert squared_errors(answers, ["a"] * 5).tolist() == [0.0, 0.5, 2.0, 0.0, 2.0]


def test_models_are_timed_one_row_at_a_time_and_in_turn() -> None:
    order: list[tuple[str, int]] = []
    now = 0

    class Slow:
        def __init__(self, name: str, ns: int) -> None:
            self.name, self.ns = name, ns

        def predict(self, rows: Sequence[Row]) -> list[Answer]:
            nonlocal now
            now += self.ns
            order.append((self.name, len(rows)))
            return [Answer("a")]

    slow, fast = time_single_rows([Slow("a", 3_000_000), Slow("b", 1_000)], [{"x": 1}, {"x": 2}], lambda: now)
    assert (set(slow.tolist()), set(fast.tolist())) == ({3.0}, {0.001})
    assert len(slow) == len(fast) == REQUESTS
    assert order[:4] == [("a", 1), ("b", 1), ("b", 1), ("a", 1)]


ABC = ("a", "b", "c")


@pytest.mark.parametrize(
    ("declared", "candidate", "champion", "passed", "lost", "missing"),
    [
        (ABC, ABC, ABC, True, [], []),
        (ABC, ("a", "b"), ABC, False, ["c"], ["c"]),
        (ABC, ("a", "c"), ("A", "B", "C"), False, ["b"], ["b"]),  # as an earlier spec spelled them
        (ABC, ("a", "b"), ("a", "b"), True, [], ["c"]),
        (("a", "b"), ("a", "b"), ABC, True, [], []),  # taken out of the spec
        (ABC, ABC, ("a", "b"), True, [], []),
        (ABC, ("a", "b"), None, True, [], ["c"]),
        (None, ("a", "b"), ABC, True, [], ["c"]),  # nobody declared that there is a "c"
        (None, ABC, None, True, [], []),
        (("0", "1", "2"), ("0", "2"), ("0.0", "1.0", "2.0"), False, ["1"], ["1"]),
    ],
)
def test_a_class_that_the_champion_answers_is_not_lost_silently(
    declared: tuple[str, ...] | None,
    candidate: tuple[str, ...],
    champion: tuple[str, ...] | None,
    passed: bool,
    lost: list[str],
    missing: list[str],
) -> None:
    result = gates.classes(None if declared is None else Classes.of(declared), candidate, champion)
    assert (result.passed, result.evidence) == (passed, {"lost": lost, "missing": missing})
    assert all(repr(name) in result.reason for name in missing)
    assert passed or "take it out of the spec's classes" in result.reason


def test_many_lost_classes_are_named_in_one_line() -> None:
    names = tuple(f"class {i}" for i in range(1_000))
    result = gates.classes(Classes.of(names), names[:2], names)
    assert "and 988 more" in result.reason
    assert len(result.reason) < 500
