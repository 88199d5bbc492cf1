"""The demo counts from the topics, compares fairly, and its loop loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest
from driftloop.infra.demo.baselines import accuracy, no_change
from driftloop.infra.demo.driver import _by_hour
from driftloop.infra.demo.flights import NEVER, Flights
from driftloop.infra.demo.ledger import differences, percentiles
from driftloop.infra.demo.live import sparkline
from driftloop.infra.demo.loop_view import LoopView
from driftloop.infra.demo.report import comparison
from driftloop.infra.demo.run import demo_toml
from driftloop.schemas.decisions import Trigger
from driftloop.schemas.serving import ModelAck, ModelUpdate, Plan, VersionRef
from driftloop.schemas.spec.file import parse_deployment
from driftloop.streams.kafka.record import Record
from hypothesis import given
from hypothesis import strategies as st

HOUR = 3_600_000


def flights(asked: list[int], landed: list[int], late: list[bool]) -> Flights:
    """A handful of flights: asked about and landed at these hours (NEVER: cancelled)."""
    return Flights(
        prediction_ids=[f"f{row}" for row in range(len(asked))],
        ts=np.array(asked) * HOUR,
        label_ms=np.array([hour if hour == NEVER else hour * HOUR for hour in landed]),
        late=np.array(late),
        day=np.zeros(len(asked), dtype=np.int32),
        columns={},
    )


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_what_is_missing_and_what_is_surplus_are_counted_apart(sent: list[str], seen: list[str]) -> None:
    missing, surplus = differences(sent, Counter(seen))
    assert missing - surplus == len(sent) - len(seen)
    assert missing == sum(max(0, sent.count(one) - seen.count(one)) for one in "abc")


def test_no_change_answers_with_the_newest_label_that_had_arrived() -> None:
    year = flights(asked=[0, 1, 5, 9], landed=[4, 3, 8, NEVER], late=[True, False, True, False])
    # At hour 5 the newest label is that of hour 4 (late); at hour 9 that of hour 8 (late).
    assert no_change(year, np.array([2, 3])).tolist() == ["late", "late"]
    year = flights(asked=[0, 1, 5], landed=[3, 4, 8], late=[True, False, True])
    assert no_change(year, np.array([2])).tolist() == ["on_time"]


def test_the_year_is_played_in_event_time_and_cancelled_flights_are_never_answered() -> None:
    year = flights(asked=[0, 1, 1], landed=[2, NEVER, 1], late=[False, False, True])
    played = [(hour.start_ms // HOUR, hour.asked, hour.answered) for hour in _by_hour(year)]
    assert played == [(0, [0], []), (1, [1, 2], [2]), (2, [], [0])]


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles([]) == {"p50": None, "p99": None}
    assert percentiles([1.0, 3.0])["p50"] == 2.0


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(np.array(["a", "b", "b", "a"]), np.array(["a", "b", "a", "a"])) == 0.75


@given(st.lists(st.floats(0, 1), max_size=500))
def test_a_sparkline_never_grows_beyond_its_points(values: list[float]) -> None:
    assert len(sparkline(values, 60)) <= 60
    assert bool(sparkline(values)) == bool(values)


def test_the_comparison_says_where_a_baseline_wins() -> None:
    compared = comparison(
        {"loop": 0.7, "static": 0.6, "no_change": 0.65, "count_matched_schedule": 0.72,
         "winners": ["count_matched_schedule"]}
    )  # fmt: skip
    assert compared == (
        "the loop (70.00%) beats static (60.00%), no change (65.00%); "
        "count matched schedule (72.00%) beats the loop"
    )


def test_the_loop_is_behind_until_every_server_serves_the_newest_generation() -> None:
    view = LoopView("x.")
    assert not view.behind(2)
    ref = VersionRef(version=1, manifest_sha256="0" * 64)
    update = ModelUpdate(
        model="m", generation=3, ts=1, plan=Plan(champion=ref), last_version=1, cause="run-1"
    )
    view.apply(Record("x.model-updates", 0, 0, 10, b"m", update.encode()))
    for offset, server in enumerate(("a", "b")):
        assert view.behind(2)
        ack = ModelAck(server_id=server, model="m", version=1, generation=3, status="live", ts=1)
        view.apply(Record("x.model-acks", 0, offset, 10, b"k", ack.encode()))
    assert not view.behind(2)
    assert view.version == 1


def test_a_repeated_trigger_counts_once_and_one_that_awaits_approval_awaits_no_run() -> None:
    view = LoopView("x.")
    trigger = Trigger(trigger_id="t", model="m", version=1, reason="manual", ts=1, spec_digest="0" * 64)
    for offset in (0, 1):
        view.apply(Record("x.triggers", 0, offset, 10, b"m", trigger.encode()))
    assert view.unanswered_triggers() == {"t"}
    waits = trigger.model_copy(update={"trigger_id": "u", "approval": "pending"})
    view.apply(Record("x.triggers", 0, 2, 10, b"m", waits.encode()))
    assert view.unanswered_triggers() == {"t"}


def test_the_demo_s_own_spec_is_valid() -> None:
    assert "flights" in parse_deployment(demo_toml()).models


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_three_days_of_the_demo_lose_and_repeat_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
    environment["DRIFTLOOP_STATE_DIR"] = str(tmp_path / "state")
    done = subprocess.run(
        [sys.executable, "-m", "driftloop", "demo", "--days", "3"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = orjson.loads((tmp_path / "state" / "demo" / "report.json").read_bytes())
    assert (report["lost"], report["duplicated"], report["requests"]["failed"]) == (0, 0, 0)
    assert report["events"]["outcomes"] == report["events"]["labels"] > 1000
    assert report["requests"]["total"] > 50
