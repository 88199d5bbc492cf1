"""A self-test asks what has a clear answer, and notices any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from driftloop.models.formats.features import Row
from driftloop.models.formats.fitted import Answer
from driftloop.models.registry.self_test import ROWS, build_self_test, check_self_test
from driftloop.schemas.errors import ArtifactError
from driftloop.schemas.serving import SelfTestRow


class Says:
    def __init__(self, answer: Callable[[float], Answer]) -> None:
        self.answer = answer

    def predict(self, rows: Sequence[Row]) -> list[Answer]:
        return [self.answer(float(row["x"] or 0)) for row in rows]


def share(x: float) -> Answer:
    """Undecided between 0.4 and 0.6."""
    p = 0.5 if 0.4 < x < 0.6 else x
    return Answer("b" if p > 0.5 else "a", {"a": 1 - p, "b": p})


GRID: list[Row] = [{"x": i / 100} for i in range(101)]


def test_rows_are_spread_over_those_with_a_clear_answer() -> None:
    rows = build_self_test(Says(share), GRID)
    asked = [float(row.features["x"] or 0) for row in rows]
    assert len(asked) == ROWS
    assert (asked[0], asked[-1]) == (0.0, 1.0)
    assert not any(0.4 < x < 0.6 for x in asked)
    check_self_test(Says(share), rows)


def test_where_nothing_is_clear_something_is_asked_all_the_same() -> None:
    assert len(build_self_test(Says(lambda x: Answer("a", {"a": 0.5, "b": 0.5})), GRID)) == ROWS
    assert len(build_self_test(Says(share), GRID[:3])) == 3
    assert build_self_test(Says(share), []) == ()


@pytest.mark.parametrize(
    ("expected", "answer", "problem"),
    [
        (Answer(1000.0), Answer(1000.05), None),
        (Answer(1000.0), Answer(1000.2), "answers 1000.2, expected 1000.0"),
        (Answer(0.0), Answer(0.00005), None),
        (Answer(0.0), Answer(0.001), "answers 0.001"),
        (Answer("a"), Answer("b"), "answers 'b', expected 'a'"),
        (Answer("1"), Answer(1.0), "answers 1.0, expected '1'"),
        (Answer("a", {"a": 0.9, "b": 0.1}), Answer("a", {"a": 0.90005, "b": 0.09995}), None),
        (Answer("a", {"a": 0.9, "b": 0.1}), Answer("a", {"a": 0.91, "b": 0.09}), "0.01 off"),
        (Answer("a", {"a": 0.9, "b": 0.1}), Answer("a", {"a": float("nan"), "b": 0.1}), "off"),
        (Answer("a", {"a": 0.9, "b": 0.1}), Answer("a"), "it scores None"),
        (Answer("a"), Answer("a", {"a": 1.0}), "expected None"),
        (Answer("a", {"a": 1.0}), Answer("a", {"a": 1.0, "b": 0.0}), "it scores"),
    ],
)
def test_an_answer_may_differ_by_rounding_and_by_nothing_else(
    expected: Answer, answer: Answer, problem: str | None
) -> None:
    scores = tuple(expected.scores.values()) if expected.scores else None
    row = SelfTestRow(features={"x": 1}, prediction=expected.prediction, scores=scores)
    if problem is None:
        check_self_test(Says(lambda x: answer), [row])
        return
    with pytest.raises(ArtifactError, match=f"self-test row 0.*{problem}"):
        check_self_test(Says(lambda x: answer), [row])
