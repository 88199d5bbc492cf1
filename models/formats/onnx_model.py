"""Predict with ONNX models: driftloop's own and imported ones.

Inputs: see ``onnx_inputs``. Outputs: scores alone (a tensor, one column per class in the order of
``classes``), a label beside scores (a tensor, or sklearn-onnx's list of {class: probability}), a label alone,
or a regression's number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ...schemas.base import ClassValue, class_name
from ...schemas.errors import ArtifactError
from ...schemas.values.classes import Classes
from .features import Row
from .fitted import Answer, AnswerError, ModelSignature
from .onnx_inputs import feed_of, read_inputs
from .onnx_session import AnyArray, OnnxSession

ROW_BY_ROW = "export it with outputs of one row for each row that it is asked"
_PROBABILITY_SLACK = 1e-3  # the sum of many float32 probabilities is only this close to one


class OnnxPredictor:
    """Answers with an ONNX model. Thread safe, as onnxruntime's sessions are."""

    def __init__(self, signature: ModelSignature, data: bytes) -> None:
        """Raise ArtifactError when the model's inputs or outputs are not what the signature says."""
        session = OnnxSession(data)
        self._run = session.run
        inputs = read_inputs(session.inputs)
        self._feed = feed_of(inputs, signature.features)
        self._one_row = inputs.one_row
        if signature.task == "regression":
            value = session.number_output()
            if value is None:
                raise ArtifactError("a regression needs an output of numbers, and it has none")
            self._outputs, self._answers = [value], _numbers
            return
        classes = signature.classes
        if not classes:
            raise ArtifactError("a classification needs its classes named, and the manifest names none")
        label, scores = session.label_output(), session.score_output()
        if label is None and scores is None:
            raise ArtifactError("it has neither an output of labels nor one of scores")
        self._outputs = [name for name in (label, scores) if name is not None]
        self._answers = _reader(classes, has_label=label is not None, has_scores=scores is not None)

    def predict(self, rows: Sequence[Row]) -> list[Answer]:
        """See ``Predictor.predict``."""
        if not rows:
            return []
        if self._one_row and len(rows) > 1:
            return [answer for row in rows for answer in self.predict((row,))]
        answers = self._answers(self._run(self._outputs, self._feed(rows)))
        if len(answers) != len(rows):
            raise AnswerError(f"the model gives {len(answers)} answers to {len(rows)} rows: {ROW_BY_ROW}")
        return answers


def _numbers(outputs: list[Any]) -> list[Answer]:
    values = cast("AnyArray", outputs[0]).reshape(-1).astype(np.float64)
    if not np.isfinite(values).all():
        raise _no_number()
    return [Answer(value) for value in values.tolist()]


def _no_number() -> AnswerError:
    return AnswerError("the model answers NaN or infinity: does it take nulls, and numbers this large?")


def _reader(
    classes: tuple[str, ...], *, has_label: bool, has_scores: bool
) -> Callable[[list[Any]], list[Answer]]:
    if not has_label:
        return lambda outputs: _by_scores(classes, outputs[0])
    name = label_names(classes)
    if not has_scores:
        return lambda outputs: [Answer(name(label)) for label in _flat(outputs[0])]
    return lambda outputs: [
        Answer(name(label), scores if are_probabilities(scores) else None)
        for label, scores in zip(_flat(outputs[0]), _checked(_score_dicts(classes, outputs[1])), strict=True)
    ]


def _checked(all_scores: list[dict[str, float]]) -> list[dict[str, float]]:
    """Raise AnswerError for a score of NaN: the label beside it is that of no comparison."""
    for scores in all_scores:
        if any(score != score for score in scores.values()):
            raise _no_number()
    return all_scores


def _flat(labels: AnyArray) -> list[ClassValue]:
    return cast("list[ClassValue]", labels.reshape(-1).tolist())


def _by_scores(classes: tuple[str, ...], scores: Any) -> list[Answer]:
    answers: list[Answer] = []
    for of_class in _score_dicts(classes, scores):
        best = max(of_class, key=of_class.__getitem__)
        if not math.isfinite(sum(of_class.values())):
            raise _no_number()
        answers.append(Answer(best, of_class))
    return answers


def _score_dicts(classes: tuple[str, ...], scores: Any) -> list[dict[str, float]]:
    if isinstance(scores, list):  # sklearn-onnx's ZipMap
        maps = cast("list[dict[ClassValue, float]]", scores)
        name = label_names(classes)
        named = [{name(label): score for label, score in one.items()} for one in maps]
        return [{known: one.get(known, 0.0) for known in classes} for one in named]
    table = cast("AnyArray", scores)
    if len(classes) == 2 and (table.ndim == 1 or table.shape[1] == 1):
        first, second = classes
        return [
            {first: 1.0 - score, second: score} for score in cast("list[float]", table.reshape(-1).tolist())
        ]
    if table.ndim != 2 or table.shape[1] != len(classes):
        raise ArtifactError(f"it scores in shape {table.shape}, and {len(classes)} classes are stated")
    return [dict(zip(classes, row, strict=True)) for row in cast("list[list[float]]", table.tolist())]


def are_probabilities(scores: dict[str, float]) -> bool:
    """Whether scores are probabilities; some classifiers return margins there."""
    low = min(scores.values())
    return low >= -_PROBABILITY_SLACK and abs(sum(scores.values()) - 1.0) <= _PROBABILITY_SLACK


def label_names(classes: tuple[str, ...]) -> Callable[[ClassValue], str]:
    """How a label names a class: by its name, in any spelling, or by its position (``go_by_position``)."""
    declared = Classes.of(classes)
    known = frozenset(classes)
    by_position = go_by_position(classes)

    def name(label: ClassValue) -> str:
        named = class_name(label)
        if named in known:
            return named
        if by_position and type(label) is int and 0 <= label < len(classes):
            return classes[label]
        found = declared.of_name[named]
        if found is not None:
            return found
        if by_position and isinstance(label, bool):
            return classes[label]
        raise ArtifactError(f"it answers {named!r}, which is not one of its classes {list(classes)}")

    return name


def go_by_position(classes: tuple[str, ...]) -> bool:
    """Whether a whole number as a label is a class's position: none is a number, or can be read as one."""
    declared = Classes.of(classes)
    all_read = all(declared.of_name[str(place)] is not None for place in range(len(classes)))
    return not declared.name_numbers and not all_read
