"""The evaluation of candidate and champion (or the constant answer) on the hold-out, done once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ...schemas.runs import GateResult, Interval
from ...schemas.serving import Manifest, Reference
from ...schemas.spec.model import ModelSpec
from ...schemas.values.classes import Classes
from ..formats.features import FeatureError, Row
from ..formats.fitted import AnswerError, Fitted, Predictor
from ..formats.loaders import load
from . import gates
from .paired_errors import Floats, PairedErrors, Prediction, costs_of, squared_errors
from .profile import build_reference
from .split import RowSplit
from .statistics import block_bootstrap, wilson
from .timing import time_single_rows


class Evaluation:
    """All answers to the hold-out and what follows. ``incumbent``: "champion", or "baseline" without one."""

    def __init__(
        self,
        spec: ModelSpec,
        parts: RowSplit,
        fitted: Fitted,
        champion: tuple[Manifest, bytes] | None,
        *,
        seed: int,
        clock_ns: Callable[[], int],
    ) -> None:
        """Raise ArtifactError when the champion's artifact cannot be loaded."""
        self.spec, self.seed, self.parts, self.fitted = spec, seed, parts, fitted
        self.declared = None if spec.classes is None else Classes.of(spec.classes)
        self.champion_classes = None if champion is None else champion[0].classes
        self.incumbent = "baseline" if champion is None else "champion"
        self.candidate = candidate = load(fitted, fitted.data)
        rows: list[Row] = [row.features for row in parts.holdout]
        self.answers = candidate.predict(rows)
        self.shares: dict[str, float] = {}
        self.champion_ms: Floats | None = None
        if champion is not None:
            champion_model = load(*champion)
            incumbent = [self._as_declared(answer) for answer in _answers(champion_model, rows)]
            answered = [row for row, answer in zip(rows, incumbent, strict=True) if answer is not None]
        else:
            champion_model, answered = None, []
            labels_before = [row.label for row in parts.training]
            self.shares = _shares(labels_before) if spec.task == "classification" else {}
            incumbent = [_constant(spec, labels_before, self.shares)] * len(rows)
        if champion_model is not None and answered:
            timed = time_single_rows([candidate, champion_model], answered, clock_ns)
            self.candidate_ms, self.champion_ms = timed
        else:
            (self.candidate_ms,) = time_single_rows([candidate], rows, clock_ns)
        self.paired = PairedErrors(
            spec.task,
            [row.label for row in parts.holdout],
            [row.segments for row in parts.holdout],
            [answer.prediction for answer in self.answers],
            incumbent,
        )

    def gate_results(self) -> tuple[GateResult, ...]:
        """One per gate: the first is what a promotion is about; all must pass."""
        rules = self.spec.gates
        results: list[GateResult] = []
        if self.incumbent == "champion":
            alpha = rules.significance.alpha
            results.append(
                gates.significance(rules.significance, self.paired, cost=rules.cost, seed=self.seed)
            )
            results.append(gates.fairness(rules.fairness, self.paired, alpha=alpha, seed=self.seed))
        else:
            results.append(
                gates.baseline(rules.significance, self.paired, self.answers, self.shares, seed=self.seed)
            )
        if self.paired.task == "classification":
            results.append(gates.classes(self.declared, self.fitted.classes or (), self.champion_classes))
        results.append(gates.latency(rules.latency, self.candidate_ms, self.champion_ms))
        if rules.cost is not None:
            results.append(gates.business_cost(rules.cost, self.paired))
        return tuple(results)

    def metrics(self) -> dict[str, Interval]:
        """On the hold-out, with 95 % intervals: for the candidate, for the incumbent, and the gain."""
        paired = self.paired
        metrics = {"gain": self._mean(paired.gains)}
        for name, errors, predictions in (
            ("candidate", paired.candidate_errors, paired.candidate),
            (self.incumbent, paired.incumbent_errors, paired.incumbent),
        ):
            if paired.task == "classification":
                metrics[f"accuracy.{name}"] = wilson(int(np.count_nonzero(errors == 0)), len(errors))
            else:
                metrics[f"mean_error.{name}"] = self._mean(errors)
            if self.spec.gates.cost is not None:
                costs = costs_of(self.spec.gates.cost, predictions, paired.labels)
                metrics[f"cost.{name}"] = self._mean(costs)
        if paired.task == "classification":
            metrics["brier.candidate"] = self._mean(squared_errors(self.answers, paired.labels))
        return metrics

    def reference(self) -> Reference:
        """The profile of what will be normal: features as after the change, errors as on the hold-out."""
        return build_reference(
            [row.features for row in (*self.parts.training, *self.parts.holdout)],
            self.fitted.features,
            task=self.paired.task,
            holdout_predictions=self.paired.candidate,
            holdout_labels=self.paired.labels,
            holdout_segments=self.paired.segments,
            latency_p95_ms=float(np.quantile(self.candidate_ms, 0.95)),
        )

    def _as_declared(self, answer: Prediction) -> Prediction:
        """Return the class that the champion's answer means: the spec may spell it otherwise by now."""
        if self.declared is None or not isinstance(answer, str):
            return answer
        return self.declared.class_of(answer)

    def _mean(self, values: Floats) -> Interval:
        return block_bootstrap(values, seed=self.seed).interval


def _answers(predictor: Predictor, rows: Sequence[Row]) -> list[Prediction]:
    """None where the champion cannot take the row or answers no number: it would have failed that request."""
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
    """The best constant answer: the majority class (the cheapest, given costs), or the mean."""
    if spec.task == "regression":
        return float(np.mean([float(label) for label in labels]))
    cost = spec.gates.cost
    if cost is None:
        return max(shares, key=shares.__getitem__)
    return min(shares, key=lambda name: float(costs_of(cost, [name] * len(labels), labels).mean()))
