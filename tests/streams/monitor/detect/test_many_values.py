"""Categories of many values: neither chance nor turns nor identifiers are drift, and a change is."""

from __future__ import annotations

import numpy as np
import pytest
from driftloop.models.formats.features import Row

from tests.support.monitor.calibration import KINDS, Shares, drawn, equal, falling
from tests.support.monitor.served import ServedModel, rows_of

REFERENCE_ROWS = 2_000
LIVE_ROWS = 3_600


def many(shares: Shares, count: int, seed: int) -> list[Row]:
    return rows_of("c", drawn(shares, count, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [500, 2_000, 20_000])
@pytest.mark.parametrize("batch", [20, 200, 1_000])
def test_a_category_of_many_values_that_stays_is_no_drift(kind: str, count: int, batch: int) -> None:
    served = ServedModel(many(KINDS[kind], count, 1))
    served.serve(many(KINDS[kind], 6_000, 2), batch=batch)
    assert served.drift() == []


@pytest.mark.parametrize("size", [7, 150, 300, 500])
@pytest.mark.parametrize("count", [200, 700, 2_000, 2_500])
@pytest.mark.parametrize("batch", [100, 300, 400, 1_000])
def test_values_that_come_in_turns_are_no_drift(size: int, count: int, batch: int) -> None:
    """Every n-th row of such a stream has the same value: a sample of every n-th would see it alone."""
    rows = rows_of("c", [f"v{number % size:04d}" for number in range(6_000)])
    served = ServedModel(rows[:count]).serve(rows, batch=batch)
    assert served.drift() == []


def test_rows_that_are_sorted_by_their_value_are_no_drift() -> None:
    names = sorted(drawn(KINDS["400, rank^-0.3"], REFERENCE_ROWS, np.random.default_rng(1)))
    served = ServedModel(rows_of("c", names)).serve(many(KINDS["400, rank^-0.3"], 6_000, 2))
    assert served.drift() == []


@pytest.mark.parametrize("share", [0.45, 0.9, 1.0])
def test_identifiers_that_never_come_again_are_no_drift_and_a_value_beside_them_is_compared(
    share: float,
) -> None:
    def rows(first: int, share: float) -> list[Row]:
        is_new = np.random.default_rng(first).random(LIVE_ROWS) < share
        return rows_of("c", [f"id-{first + i}" if new else "none" for i, new in enumerate(is_new.tolist())])

    served = ServedModel(rows(0, share)[:REFERENCE_ROWS]).serve(rows(10_000, share))
    assert served.drift() == []
    served.serve(rows(20_000, share - 0.4))
    # Where the reference has identifiers alone, no value is known, so none can become more frequent.
    assert served.alarms() == ([("c", "chi2")] if share < 1 else [])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.append(equal(150), np.zeros(100)), np.append(equal(150) * 0.6, equal(100) * 0.4)),
        (equal(500), np.append(equal(250), np.zeros(250))),
        (falling(400, 0.3), falling(400, 1.2)),
        (falling(400, 1.0), falling(400, 1.0)[::-1]),
        (equal(2), np.array([0.7, 0.3])),
    ],
    ids=["new values", "half of them gone", "falls faster", "turned round", "two"],
)
def test_a_category_of_many_values_that_changes_is_drift(before: Shares, after: Shares) -> None:
    served = ServedModel(many(before, 5_000, 1)).serve(many(after, 4_000, 2))
    assert served.alarms() == [("c", "chi2")]
