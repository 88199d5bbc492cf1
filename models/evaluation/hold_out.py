"""The hearing: candidate and champion (or the constant answer) before the hold-out, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...schemas.runs import GateVerdict, Interval
from ...schemas.serving import Manifest, Reference
from ...schemas.spec.model import ModelSpec
from ..formats.features import FeatureError, Row
from ..formats.fitted import Answer, AnswerError, Fitted, Predictor
from ..formats.loaders import load
from . import gates
from .paired_errors import Floats, Judged, Prediction, costs_of, squared_errors
from .profile import build_reference
from .split import Split
from .statistics import block_bootstrap, wilson
from .timing import time_single_rows


@dataclass(frozen=True, slots=True)
class Hearing:
    """Everything that was said on the hold-out. ``incumbent``: "champion", or "baseline" without one."""

    spec: ModelSpec
    seed: int
    parts: Split
    fitted: Fitted
    candidate: Predictor
    answers: tuple[Answer, ...]
    judged: Judged
    incumbent: str
    shares: dict[str, float]
    candidate_ms: Floats
    champion_ms: Floats | None

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        parts: Split,
        fitted: Fitted,
        champion: tuple[Manifest, bytes] | None,
        *,
        seed: int,
        clock_ns: Callable[[], int],
    ) -> Hearing:
        """Raises ArtifactError when the champion's artifact cannot be loaded."""
        candidate = load(fitted, fitted.data)
        rows: list[Row] = [row.features for row in parts.holdout]
        labels = [row.label for row in parts.holdout]
        answers = candidate.predict(rows)
        shares: dict[str, float] = {}
        if champion is not None:
            opponent = load(*champion)
            incumbent = _answers(opponent, rows)
            answered = [row for row, answer in zip(rows, incumbent, strict=True) if answer is not None]
            timed = time_single_rows([candidate, opponent], answered, clock_ns) if answered else None
            candidate_ms, champion_ms = timed or (*time_single_rows([candidate], rows, clock_ns), None)
        else:
            taught = [row.label for row in parts.teach]
            shares = _shares(taught) if spec.task == "classification" else {}
            incumbent = [_constant(spec, taught, shares)] * len(rows)
            candidate_ms, champion_ms = time_single_rows([candidate], rows, clock_ns)[0], None
        predictions = [answer.prediction for answer in answers]
        segments = [row.segments for row in parts.holdout]
        return cls(
            spec=spec,
            seed=seed,
            parts=parts,
            fitted=fitted,
            candidate=candidate,
            answers=tuple(answers),
            judged=Judged.of(spec.task, labels, segments, predictions, incumbent),
            incumbent="baseline" if champion is None else "champion",
            shares=shares,
            candidate_ms=candidate_ms,
            champion_ms=champion_ms,
        )

    def verdicts(self) -> tuple[GateVerdict, ...]:
        """The first is the one that a promotion is about; all must pass."""
        rules = self.spec.gates
        verdicts: list[GateVerdict] = []
        if self.incumbent == "champion":
            alpha = rules.significance.alpha
            verdicts.append(
                gates.significance(rules.significance, self.judged, cost=rules.cost, seed=self.seed)
            )
            verdicts.append(gates.fairness(rules.fairness, self.judged, alpha=alpha, seed=self.seed))
        else:
            verdicts.append(
                gates.baseline(rules.significance, self.judged, self.answers, self.shares, seed=self.seed)
            )
        verdicts.append(gates.latency(rules.latency, self.candidate_ms, self.champion_ms))
        if rules.cost is not None:
            verdicts.append(gates.business_cost(rules.cost, self.judged))
        return tuple(verdicts)

    def metrics(self) -> dict[str, Interval]:
        """On the hold-out, with 95 % intervals: for the candidate, for the incumbent, and the gain."""
        judged = self.judged
        metrics = {"gain": self._mean(judged.gains)}
        for name, errors, predictions in (
            ("candidate", judged.candidate_errors, judged.candidate),
            (self.incumbent, judged.incumbent_errors, judged.incumbent),
        ):
            if judged.task == "classification":
                metrics[f"accuracy.{name}"] = wilson(int(np.count_nonzero(errors == 0)), len(errors))
            else:
                metrics[f"mean_error.{name}"] = self._mean(errors)
            if self.spec.gates.cost is not None:
                costs = costs_of(self.spec.gates.cost, predictions, judged.labels)
                metrics[f"cost.{name}"] = self._mean(costs)
        if judged.task == "classification":
            metrics["brier.candidate"] = self._mean(squared_errors(self.answers, judged.labels))
        return metrics

    def reference(self) -> Reference:
        """What will be normal: features as after the change, errors as on the hold-out."""
        return build_reference(
            [row.features for row in (*self.parts.teach, *self.parts.holdout)],
            self.fitted.features,
            task=self.judged.task,
            holdout_predictions=self.judged.candidate,
            holdout_labels=self.judged.labels,
            holdout_segments=self.judged.segments,
            latency_p95_ms=float(np.quantile(self.candidate_ms, 0.95)),
        )

    def _mean(self, values: Floats) -> Interval:
        return block_bootstrap(values, seed=self.seed)[1]


def _answers(predictor: Predictor, rows: Sequence[Row]) -> list[Prediction]:
    """None where the champion cannot take the row or gives no number: it would have failed that request."""
    try:
        return [answer.prediction for answer in predictor.predict(rows)]
    except (FeatureError, AnswerError):
        return [_answer(predictor, row) for row in rows]


def _answer(predictor: Predictor, row: Row) -> Prediction:
    try:
        return predictor.predict([row])[0].prediction
    except (FeatureError, AnswerError):
        return None


def _shares(labels: Sequence[str | float]) -> dict[str, float]:
    counts = Counter(str(label) for label in labels)
    return {name: counts[name] / len(labels) for name in sorted(counts)}


def _constant(spec: ModelSpec, labels: Sequence[str | float], shares: dict[str, float]) -> str | float:
    """The best that can be answered without looking: majority class (cheapest, given costs), or the mean."""
    if spec.task == "regression":
        return float(np.mean([float(label) for label in labels]))
    cost = spec.gates.cost
    if cost is None:
        return max(shares, key=shares.__getitem__)
    return min(shares, key=lambda name: float(costs_of(cost, [name] * len(labels), labels).mean()))
