"""Two models on the same rows: what each got wrong, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...schemas.serving import Task
from ...schemas.spec.model import Cost
from ..formats.fitted import Answer

Floats = NDArray[np.float64]
Prediction = str | float | None


class PairedErrors:
    """Errors per hold-out row, in time order: 0/1 for classes, |y − ŷ| for numbers.

    ``incumbent`` is the champion or, without one, the best constant answer; None is a request it failed.
    """

    def __init__(
        self,
        task: Task,
        labels: Sequence[str | float],
        segments: Sequence[dict[str, str]],
        candidate: Sequence[Prediction],
        incumbent: Sequence[Prediction],
    ) -> None:
        self.task: Task = task
        self.labels, self.segments = labels, segments
        self.candidate, self.incumbent = candidate, incumbent
        errors = [errors_of(task, predictions, labels) for predictions in (candidate, incumbent)]
        # A failed request is as bad as the worst answer anybody gave.
        worst = max((float(np.nanmax(of)) for of in errors if not np.isnan(of).all()), default=1.0)
        self.candidate_errors, self.incumbent_errors = (np.where(np.isnan(of), worst, of) for of in errors)
        # Per row: by how much the candidate was less wrong.
        self.gains: Floats = self.incumbent_errors - self.candidate_errors


def errors_of(task: Task, predictions: Sequence[Prediction], labels: Sequence[str | float]) -> Floats:
    """0/1 or |y − ŷ|; a failed request is wrong, or NaN where errors are numbers."""
    pairs = zip(predictions, labels, strict=True)
    if task == "classification":
        return np.array([prediction != label for prediction, label in pairs], dtype=np.float64)
    return np.array(
        [
            np.nan if prediction is None else abs(float(prediction) - float(label))
            for prediction, label in pairs
        ]
    )


def costs_of(cost: Cost, predictions: Sequence[Prediction], labels: Sequence[str | float]) -> Floats:
    """Cost per row by ``matrix[actual][predicted]``; pairs it lacks cost 0 when right and 1 when wrong."""
    return np.array(
        [
            cost.matrix.get(str(label), {}).get(str(prediction), float(prediction != label))
            for prediction, label in zip(predictions, labels, strict=True)
        ]
    )


def squared_errors(answers: Sequence[Answer], labels: Sequence[str | float]) -> Floats:
    """Brier's score per row (0 right and sure … 2 wrong and sure); an answer without scores is sure.

    It is proper: to be honest about doubt is the best that a model can do.
    """
    return np.array([_brier(answer, label) for answer, label in zip(answers, labels, strict=True)])


def _brier(answer: Answer, label: str | float) -> float:
    if answer.scores is None:
        return 2.0 * float(answer.prediction != label)
    known = answer.scores.get(str(label), 0.0)
    return sum(score * score for score in answer.scores.values()) - 2.0 * known + 1.0
