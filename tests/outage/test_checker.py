"""The outage harness' checker: what it must see. The harness itself is ``make outage``."""

from __future__ import annotations

import pytest

from tests.outage.asking import Answered, AnswerLedger
from tests.outage.check import MUST_BE_ZERO, arrived, found
from tests.soak.checks.logs import Line


def line(offset: int, name: str, value: bytes = b"{}") -> Line:
    return Line(0, offset, 0, name.encode(), value, "")


def answered(*names: str) -> list[AnswerLedger]:
    return [AnswerLedger([Answered(name, 0.0, 0.0) for name in names])]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([line(0, "s0-0"), line(1, "s0-1")], {}),
        ([line(0, "s0-0"), line(1, "s0-1"), line(2, "s0-0")], {}),  # a repeat with the same bytes
        ([line(0, "s0-0"), line(1, "s0-1"), line(2, "s0-0", b"[]")], {"forked": 1}),
        ([line(0, "s0-1"), line(1, "s0-0")], {"out_of_order": 1}),
        ([line(0, "s0-1")], {"lost": 1}),
    ],
)
def test_the_checker_sees_what_is_lost_forked_or_out_of_order(
    lines: list[Line], wrong: dict[str, int]
) -> None:
    counts = arrived(lines, answered("s0-0", "s0-1"))
    rest = dict.fromkeys(MUST_BE_ZERO, 0)
    assert found(rest | counts) == wrong
