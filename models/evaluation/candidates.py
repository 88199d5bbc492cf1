"""Candidates: every learner of the spec, trained on the rows after the change alone or mixed with older ones.

After a sudden change the old rows are wrong; after a mild one they are most of what there is to learn from.
The validation rows choose (Brier's score, or the mean error of numbers): they are few, so a proper score,
which uses every probability, tells candidates apart where counting errors would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...schemas.serving import FeatureSpec
from ...schemas.spec.model import LearnerSpec, ModelSpec
from ..formats.fitted import Fitted, LearningError
from ..formats.learners import make_learner
from ..formats.loaders import load
from ..rows import LabelledRow
from .paired_errors import errors_of, squared_errors
from .split import RowSplit

Mix = Literal["after", "mix"]
Rows = tuple[LabelledRow, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A learner and the rows it is trained on: those ``after`` the change, or a ``mix`` with older ones."""

    learner: LearnerSpec
    mix: Mix

    @property
    def name(self) -> str:
        return f"{self.learner.kind}/{self.mix}"

    def parameters(self) -> dict[str, Any]:
        return self.learner.model_dump(mode="json") | {"rows": self.mix}


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidate, refitted on everything but the hold-out."""

    candidate: Candidate
    fitted: Fitted
    validation: dict[str, float]
    validation_rows: int
    """0 when there was nothing to choose."""


@dataclass(frozen=True, slots=True)
class Fitter:
    """Fits candidates to rows: the spec's task, the columns and classes all candidates share, the seed."""

    spec: ModelSpec
    features: tuple[FeatureSpec, ...]
    classes: tuple[str, ...] | None
    seed: int

    def fit(self, learner: LearnerSpec, rows: Sequence[LabelledRow]) -> Fitted:
        """Raise LearningError when this learner cannot learn from these rows."""
        if not rows:
            raise LearningError("there are no rows to learn from")
        if not self.features:
            raise LearningError("the rows have no features to learn from")
        return make_learner(learner).fit(
            [row.features for row in rows],
            [row.label for row in rows],
            features=self.features,
            classes=self.classes,
            task=self.spec.task,
            seed=self.seed,
        )


def choose(fitter: Fitter, parts: RowSplit) -> Choice:
    """Raise LearningError, naming every candidate's reason, when none can learn."""
    mixes: tuple[Mix, ...] = ("after", "mix") if parts.older else ("after",)
    candidates = [Candidate(learner, mix) for mix in mixes for learner in fitter.spec.learner]
    to_choose = len(candidates) > 1
    scores: dict[int, float] = {}
    reasons: dict[str, None] = {}
    for place, candidate in enumerate(candidates):
        try:
            scores[place] = _score(fitter, candidate, parts) if to_choose else 0.0
        except LearningError as error:
            reasons[f"{candidate.name}: {error}"] = None
    by_score = sorted(scores, key=scores.__getitem__)
    for candidate in (candidates[place] for place in by_score):
        try:
            fitted = fitter.fit(candidate.learner, _training_rows(candidate, parts, parts.training))
        except LearningError as error:
            reasons[f"{candidate.name}: {error}"] = None
            continue
        validation = {f"{i}:{candidates[i].name}": scores[i] for i in by_score} if to_choose else {}
        return Choice(candidate, fitted, validation, parts.validation_rows if to_choose else 0)
    raise LearningError("; ".join(reasons))


def _score(fitter: Fitter, candidate: Candidate, parts: RowSplit) -> float:
    """Mean loss on the validation rows of a model that has not seen them; smaller is better."""
    fitted = fitter.fit(candidate.learner, _training_rows(candidate, parts, parts.before_validation()))
    rows = parts.validation()
    answers = load(fitted, fitted.data).predict([row.features for row in rows])
    labels = [row.label for row in rows]
    if fitter.spec.task == "classification":
        return float(squared_errors(answers, labels).mean())
    return float(errors_of("regression", [answer.prediction for answer in answers], labels).mean())


def _training_rows(candidate: Candidate, parts: RowSplit, after: Rows) -> Rows:
    return (*parts.older, *after) if candidate.mix == "mix" else after
