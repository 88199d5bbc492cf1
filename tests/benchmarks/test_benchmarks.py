"""The benchmarks' own checks: what is met, what the guard refuses, what the sizing page computes."""

from __future__ import annotations

import pytest
from driftloop.schemas.events import Label, Prediction
from driftloop.schemas.partition import partition_of

from benchmarks.guard import is_regression, kept_ratio
from benchmarks.latency import PARTITIONS, pairs_of
from benchmarks.report import BEGIN, END, PAGE, Row, Target, into_page, markdown
from benchmarks.sizing import BEYOND_MEASURED, BUSY, Costs, page, plan
from benchmarks.support.curves import fitted
from benchmarks.support.events import label_of, prediction_of

COSTS = Costs(
    base_us=5.0, slope_us=0.5, measured_pending=10_000_000, far_us=20.0, models_ratio=1.4, feature_us=0.3,
    bytes_per_pending=100, rss_mb=700, monitor_us=1.0, entry_us=100.0, restore_per_s=200_000.0,
    machine="a machine", at="2026-01-01",
)  # fmt: skip


def test_the_guard_refuses_a_quarter_more_and_nothing_less() -> None:
    assert is_regression(2.51, 2.0)
    assert not is_regression(2.5, 2.0)
    assert not is_regression(1.0, 2.0)
    assert kept_ratio() > 1  # nothing that joins is cheaper than the floor


@pytest.mark.parametrize(
    ("sense", "value", "result"),
    [("≤", 3.0, "met"), ("≤", 3.01, "not met"), ("≥", 3.0, "met"), ("≥", 2.99, "not met")],
)
def test_a_target_is_met_up_to_its_limit(sense: str, value: float, result: str) -> None:
    target = Target("join", "join", "ratio", sense, 3.0)
    assert Row(target, value, "", "").result == result


def test_what_was_not_measured_says_why() -> None:
    target = Target("Kafka Streams", "peers", "peers.kafka-streams.ratio", "≥", 3.0)
    assert Row(target, None, "", "").result == "not measured"
    assert Row(target, None, "", "", "no JDK installed (javac)").result == "no JDK installed (javac)"


def test_the_page_takes_the_table_between_its_marks_and_keeps_the_rest() -> None:
    row = Row(Target("join", "join", "ratio", "≤", 3.0), 2.5, "2026-01-01T00:00:00Z", "a machine")
    text = into_page(f"before\n{BEGIN}\nold\n{END}\nafter\n", markdown([row]))
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "| join | 2.5 × | ≤ 3 × | met |" in text
    assert "old" not in text
    with pytest.raises(SystemExit):
        into_page("no marks", "table")
    assert BEGIN in PAGE.read_text("utf-8")


@pytest.mark.parametrize("rate", [1_000, 1_000_000])
@pytest.mark.parametrize("pending", [1_000_000, 1_000_000_000])
def test_a_plan_carries_its_rate_and_holds_what_is_pending(rate: int, pending: int) -> None:
    found = plan(COSTS, rate, pending)
    assert rate / found.instances * found.event_us / 1e6 <= BUSY
    assert pending / found.instances <= BEYOND_MEASURED * COSTS.measured_pending
    if found.instances > 1:  # one less would not do
        less, held = found.instances - 1, pending / (found.instances - 1)
        busy = rate / less * COSTS.join_us(held) / 1e6
        assert busy > BUSY or held > BEYOND_MEASURED * COSTS.measured_pending


def test_the_sizing_page_states_what_it_was_computed_from() -> None:
    text = page(COSTS)
    assert "us(p) = 5.00 + 0.50 · log10(p)" in text
    assert text.count("\n| 1,000,000 | ") == 4
    assert "{" not in text


def test_a_fit_finds_the_line() -> None:
    fit = fitted([(10.0**n, 2.0 + 3.0 * n) for n in range(1, 6)], logarithmic=True)
    assert fit["base_us"] == pytest.approx(2.0)
    assert fit["slope_us"] == pytest.approx(3.0)
    assert fit["r2"] == pytest.approx(1.0)


def test_benchmarks_send_what_users_may_send() -> None:
    prediction = Prediction.decode(prediction_of(7, ("late",), 100))
    assert len(prediction.features) == 100
    assert Label.decode(label_of(7)).prediction_id == prediction.prediction_id


def test_a_models_labels_are_in_order_because_they_share_a_partition() -> None:
    pairs = pairs_of(10, 2_000)
    assert len({pair.name for pair in pairs}) == len(pairs)
    for model in range(10):
        own = [pair for pair in pairs if pair.model == model]
        assert {partition_of(pair.name, PARTITIONS) for pair in own} == {model % PARTITIONS}
        assert [pair.index for pair in own] == list(range(len(own)))
        assert any(pair.wrong for pair in own)
