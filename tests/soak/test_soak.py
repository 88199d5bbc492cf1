"""The fault harness in short: three faults on a three-node cluster under load, and nothing is found.

The long runs are ``make soak``; docs/soak.md says what they do.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.soak.checks import expect
from tests.soak.checks.expect import LoggedLabel, LoggedPrediction, Windows, expected_of
from tests.soak.plan import DECK, LATE_REQUESTS, NETWORK_DECK, make_plan
from tests.soak.run import soak
from tests.soak.stage import Run
from tests.soak.traffic.story import LoadProfile, load_records

SOAK = Path(expect.__file__).parents[1]
JOINER = (
    "driftloop.streams.join",
    "driftloop.infra.metrics.joiner",
    "driftloop.infra.status.join_status",
    "driftloop.infra.cluster.books",
)
WINDOWS = Windows(horizon_ms=1_000, early_ms=100, correction_ms=500)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_broker_a_joiner_and_a_monitor_killed_under_load_leave_no_trace(tmp_path: Path) -> None:
    run = Run(
        folder=tmp_path / "soak", seed=1, faults=3, seconds=9, rate=800, horizon_s=20, early_s=3,
        data_partitions=2, model_partitions=2, catch_up_s=400,
    )  # fmt: skip
    said: list[str] = []
    figures, findings = soak(run, said.append)
    assert findings.clean, (findings.examples, said)
    assert figures["faults_by_kind"] == {"kill-join": 1, "kill-broker": 1, "kill-monitor": 1}
    assert figures["outcomes_seen"] == figures["outcomes_expected"]
    assert isinstance(figures["outcomes_seen"], int)
    assert figures["outcomes_seen"] > 1_000
    assert isinstance(figures["states_counted"], int)
    assert figures["states_counted"] >= 2


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_network_that_cuts_and_is_late_leaves_no_trace(tmp_path: Path) -> None:
    run = Run(
        folder=tmp_path / "soak", seed=2_574, faults=4, seconds=12, rate=500, horizon_s=20, early_s=3,
        data_partitions=2, model_partitions=2, catch_up_s=400, network=True,
    )  # fmt: skip
    said: list[str] = []
    figures, findings = soak(run, said.append)
    assert findings.clean, (findings.examples, said)
    assert figures["faults_by_kind"] == {"late-network": 3, "cut-network": 1}
    assert isinstance(figures["late_requests"], int)
    assert figures["late_requests"] > 0
    assert figures["outcomes_seen"] == figures["outcomes_expected"]


def test_a_seed_gives_the_same_faults_and_the_same_records_again() -> None:
    assert make_plan(7, 200, 1_000) == make_plan(7, 200, 1_000) != make_plan(8, 200, 1_000)
    assert {fault.kind for fault in make_plan(7, 200, 1_000)} == set(DECK)
    profile = LoadProfile(7, start_ms=0, rate=100, late_after=50)
    first = [record for record, _ in zip(load_records(profile), range(5_000), strict=False)]
    assert first == [record for record, _ in zip(load_records(profile), range(5_000), strict=False)]


def test_a_network_that_fails_has_faults_of_its_own_in_the_plan() -> None:
    plan = make_plan(7, 400, 1_000, network=True)
    assert plan == make_plan(7, 400, 1_000, network=True)
    assert {fault.kind for fault in plan} == DECK.keys() | NETWORK_DECK.keys()
    late = [fault.request for fault in plan if fault.action == "late"]
    assert set(late) == set(LATE_REQUESTS)
    assert not [fault for fault in plan if fault.request and fault.action != "late"]


def test_the_checker_knows_nothing_of_the_joiner() -> None:
    for file in SOAK.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                continue
            for name in named:
                assert not name.startswith(JOINER), (file, name)


def prediction(
    append_ms: int = 0, *, role: str = "champion", content: int = 1, offset: int = 0
) -> LoggedPrediction:
    return LoggedPrediction("alpha", 1, role, append_ms, offset, "late", content, 0)


def label(
    append_ms: int, value: str | bool = "late", *, source: str = "system", offset: int = 0
) -> LoggedLabel:
    return LoggedLabel(append_ms, offset, value, isinstance(value, bool), source)


@pytest.mark.parametrize(
    ("predictions", "labels", "due"),
    [
        ([prediction()], [label(1_000)], [("late", 0, 0.0)]),
        ([prediction()], [label(1_001)], []),
        ([prediction(100)], [label(0)], [("late", 0, 0.0)]),
        ([prediction(101)], [label(0)], []),
        ([prediction()], [label(1), label(2, offset=1)], [("late", 0, 0.0)]),
        (
            [prediction()],
            [label(1), label(501, "on_time", offset=1)],
            [("late", 0, 0.0), ("on_time", 1, 1.0)],
        ),
        ([prediction()], [label(1), label(502, "on_time", offset=1)], [("late", 0, 0.0)]),
        ([prediction()], [label(1, source="expert"), label(2, "on_time", offset=1)], [("late", 0, 0.0)]),
        ([prediction()], [label(1, False)], [(False, 0, 1.0)]),
        ([prediction(role="shadow")], [label(1, False)], []),
        ([prediction(), prediction(5, offset=1)], [label(6)], [("late", 0, 0.0)]),
    ],
)
def test_the_checker_expects_what_the_contract_says(
    predictions: list[LoggedPrediction], labels: list[LoggedLabel], due: list[tuple[object, int, float]]
) -> None:
    expected = expected_of(predictions, labels, WINDOWS, frozenset())
    assert [(one.value, one.revision, one.error) for one in expected.due] == due
