"""The experiment: a candidate against the champion on rows that neither was trained on.

1. Rows whose values are not of their feature's type are left out. 2. The newest rows are held out (split.py).
3. The validation rows choose a candidate, which is fitted again on everything but the hold-out
(candidates.py). 4. The hold-out is used once: candidate and champion answer it, and every gate passes or
fails (gates.py). With no champion, the constant answer is what must be beaten.

A pure function of its input and the clock, which only the latency gate uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from ...schemas.runs import GateResult
from ...schemas.serving import Manifest
from ...schemas.spec.model import ModelSpec
from ..formats.features import FeatureEncoder, infer_features
from ..formats.fitted import LearningError
from ..registry.self_test import build_self_test
from ..rows import LabelledRow, in_one_spelling
from .candidates import Fitter, choose
from .hold_out import Evaluation
from .result import ExperimentResult
from .split import RowSplit, lineage, split

MIN_ROWS = 5  # to train on, and to evaluate on: with fewer no test could ever pass
_PACKAGES = ("driftloop", "numpy", "scikit-learn", "onnx", "onnxruntime", "river", "scipy")


@dataclass(frozen=True, slots=True)
class ExperimentInput:
    """``champion_saw``: ids of rows the champion was trained on, which are not held out.

    ``rows_before_change`` may be empty; rows may come in any order.
    """

    spec: ModelSpec
    rows_before_change: tuple[LabelledRow, ...]
    rows_after_change: tuple[LabelledRow, ...]
    champion: tuple[Manifest, bytes] | None
    seed: int
    champion_saw: frozenset[str] = frozenset()


def run_experiment(
    given: ExperimentInput,
    *,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    on_trained: Callable[[], None] = lambda: None,
) -> ExperimentResult:
    """``on_trained`` is called between training and evaluation, when there is something to evaluate.

    Raises ArtifactError when the champion's artifact cannot be loaded, SpecError for a wrong spec.
    """
    before, after = _usable(given)
    parts = split(before, after, given.spec.window, champion_saw=given.champion_saw)
    if len(parts.training) < MIN_ROWS or len(parts.holdout) < MIN_ROWS:
        return ExperimentResult(passed=False, why=_too_few(given, parts))
    try:
        choice = choose(_fitter(given, parts), parts)
    except LearningError as error:
        return ExperimentResult(passed=False, why=f"nothing could be learned: {error}")
    on_trained()
    evaluation = Evaluation(
        given.spec, parts, choice.fitted, given.champion, seed=given.seed, clock_ns=clock_ns
    )
    gates = evaluation.gate_results()
    old_rows = len(parts.older) if choice.candidate.mix == "mix" else 0
    return ExperimentResult(
        passed=all(gate.passed for gate in gates),
        why=_why(gates, left_out=len(given.rows_after_change) - len(after)),
        candidate=choice.fitted,
        format=choice.fitted.format,
        features=choice.fitted.features,
        classes=choice.fitted.classes,
        lineage=lineage(parts, old_rows=old_rows, validation_rows=choice.validation_rows),
        metrics=evaluation.metrics(),
        gates=gates,
        reference=evaluation.reference(),
        self_test=build_self_test(evaluation.candidate, [row.features for row in parts.holdout]),
        learner=choice.candidate.learner.kind,
        parameters=choice.candidate.parameters() | {"validation": choice.validation},
        packages=_package_versions(),
    )


def _package_versions() -> dict[str, str]:
    """Versions of what determines a training run's result, for its record."""
    versions = {"python": python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # an optional learner's library
    return versions


def _usable(given: ExperimentInput) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Rows before and after the change whose values are of their features' types, each class by one name."""
    classes = None if given.champion is None else given.champion[0].classes
    everyone = in_one_spelling((*given.rows_before_change, *given.rows_after_change), given.spec, classes)
    accepts = FeatureEncoder(infer_features(given.spec, [row.features for row in everyone])).accepts
    before, after = everyone[: len(given.rows_before_change)], everyone[len(given.rows_before_change) :]
    return [row for row in before if accepts(row.features)], [row for row in after if accepts(row.features)]


def _fitter(given: ExperimentInput, parts: RowSplit) -> Fitter:
    rows = (*parts.older, *parts.training)
    classes = None
    if given.spec.task == "classification":
        classes = given.spec.classes or tuple(sorted({str(row.label) for row in rows}))
    return Fitter(given.spec, infer_features(given.spec, [row.features for row in rows]), classes, given.seed)


def _too_few(given: ExperimentInput, parts: RowSplit) -> str:
    return (
        f"too few rows: {len(given.rows_after_change)} labelled after the change leave {len(parts.training)} "
        f"to train on and {len(parts.holdout)} to evaluate on, and each needs {MIN_ROWS}"
    )


def _why(gates: tuple[GateResult, ...], *, left_out: int) -> str:
    failed = [f"{gate.gate}: {gate.reason}" for gate in gates if not gate.passed]
    why = "refused by " + "; ".join(failed) if failed else f"better: {gates[0].reason}"
    return f"{why}; {left_out} rows left out for values of the wrong type" if left_out else why
