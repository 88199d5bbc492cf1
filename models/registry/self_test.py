"""Self-tests: rows with the answers of the trainer's own loader; a server must get the same.

They catch what digests cannot: another library version, another processor, a changed encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...schemas.errors import ArtifactError
from ...schemas.serving import SelfTestRow
from ..formats.features import Row
from ..formats.fitted import Answer, Predictor

ROWS = 8
TOLERANCE = 1e-4  # float32 sums over a few thousand trees differ by less than 1e-5 between processors
CLEAR_MARGIN = 1e-3  # a row that two classes share equally may fall either way


def build_self_test(predictor: Predictor, rows: Sequence[Row]) -> tuple[SelfTestRow, ...]:
    """ROWS rows evenly spaced among those with a clear answer (among all, when none is clear)."""
    answered = list(zip(rows, predictor.predict(rows), strict=True))
    usable = [one for one in answered if _margin(one[1]) > CLEAR_MARGIN] or answered
    places = sorted({round(i * (len(usable) - 1) / (ROWS - 1)) for i in range(ROWS)}) if usable else []
    return tuple(
        SelfTestRow(features=dict(row), prediction=answer.prediction, scores=_scores(answer))
        for row, answer in (usable[place] for place in places)
    )


def check_self_test(predictor: Predictor, expected: Sequence[SelfTestRow]) -> None:
    """Predict row by row, as a server does. Raises ArtifactError at the first answer that differs."""
    if not expected:
        raise ArtifactError(
            "the manifest has no self-test rows, so nothing shows that it answers as it should"
        )
    for number, row in enumerate(expected):
        (answer,) = predictor.predict([row.features])
        if not _same(answer.prediction, row.prediction):
            raise ArtifactError(
                f"self-test row {number}: it answers {answer.prediction!r}, expected {row.prediction!r}"
            )
        scores = _scores(answer)
        if row.scores is None and scores is None:
            continue
        if row.scores is None or scores is None or len(scores) != len(row.scores):
            raise ArtifactError(f"self-test row {number}: it scores {scores}, expected {row.scores}")
        furthest = max(abs(got - wanted) for got, wanted in zip(scores, row.scores, strict=True))
        if not furthest <= TOLERANCE:
            raise ArtifactError(
                f"self-test row {number}: a score is {furthest:.3g} off ({TOLERANCE:g} allowed)"
            )


def _scores(answer: Answer) -> tuple[float, ...] | None:
    return None if answer.scores is None else tuple(answer.scores.values())


def _margin(answer: Answer) -> float:
    if answer.scores is None or len(answer.scores) < 2:
        return math.inf
    best, second = sorted(answer.scores.values(), reverse=True)[:2]
    return best - second


def _same(got: str | float, expected: str | float) -> bool:
    if isinstance(got, str) or isinstance(expected, str):
        return got == expected
    return abs(got - expected) <= TOLERANCE * max(1.0, abs(expected))
