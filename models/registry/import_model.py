"""Import an existing model: what an ONNX file declares, checked against labelled rows.

The rows (a CSV with a header) name the features, show their values and the classes, and become the version's
reference profile and self-test. What does not fit is reported here, not at the first request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...schemas.errors import ArtifactError
from ...schemas.serving import FeatureSpec, Reference, SelfTestRow, Task
from ...schemas.values.classes import Classes
from ..evaluation.profile import build_reference
from ..evaluation.timing import time_single_rows
from ..formats.features import FeatureError, Row
from ..formats.fitted import Answer, AnswerError, Fitted, Predictor
from ..formats.onnx_inputs import read_inputs
from ..formats.onnx_model import OnnxPredictor, are_probabilities, go_by_position
from ..formats.onnx_session import OnnxSession
from .class_order import better_order
from .import_features import features_of, text_columns
from .reference_csv import FIRST_ROW, ReferenceTable
from .self_test import build_self_test


@dataclass(frozen=True, slots=True)
class ManifestParts:
    """What a Manifest needs besides version, time and signature."""

    fitted: Fitted
    reference: Reference
    self_test: tuple[SelfTestRow, ...]


def inspect_onnx(
    data: bytes,
    reference_rows: Sequence[Row],
    labels: Sequence[str | float],
    classes: tuple[str, ...] | None,
    task: Task,
) -> tuple[tuple[FeatureSpec, ...], tuple[str, ...] | None]:
    """The model's features, in its order, and its classes, in the order of its scores.

    ``classes`` as the spec names them; absent: those of the labels. A model that answers labels beside scores
    shows the scores' order itself; what it numbers is taken to be in the order given (absent: sorted), and
    refused where the labels show another.
    Raises ArtifactError that names what does not fit and what to do.
    """
    session = OnnxSession(data)
    features = features_of(read_inputs(session.inputs), reference_rows)
    if task == "regression":
        return features, None
    known = classes or _sorted_classes({str(label) for label in labels})
    if len(known) < 2:
        raise ArtifactError(
            f"the labels name {len(known)} class: state all classes, in the order of the scores"
        )
    strange = sorted({str(label) for label in labels} - set(known))
    if strange:
        raise ArtifactError(
            f"the labels name {', '.join(strange)}, which are not among the classes {list(known)}"
        )
    predictor = OnnxPredictor(Fitted("onnx", data, features, known, task), data)
    answers = _answers(predictor, reference_rows)
    has_label = session.label_output() is not None
    if not has_label:
        _check_scores(answers)
    named = has_label and (session.has_text_labels() or not go_by_position(known))
    _check_order(known, answers, labels, named=named)
    return features, _in_score_order(known, answers) if has_label else known


def build_manifest_parts(
    data: bytes, table: ReferenceTable, *, task: Task, classes: tuple[str, ...] | None = None
) -> ManifestParts:
    """Raise ArtifactError when the model cannot answer the table's rows, or its answers are no classes."""
    table = table.with_texts(text_columns(read_inputs(OnnxSession(data).inputs), table.rows[0]))
    labels = _as_classes(table.labels, classes)
    features, known = inspect_onnx(data, table.rows, labels, classes, task)
    fitted = Fitted("onnx", data, features, known, task)
    predictor = OnnxPredictor(fitted, data)
    answers = _answers(predictor, table.rows)
    (latency_ms,) = time_single_rows([predictor], table.rows)
    reference = build_reference(
        table.rows,
        features,
        task=task,
        holdout_predictions=[answer.prediction for answer in answers],
        holdout_labels=labels,
        holdout_segments=table.segments,
        latency_p95_ms=float(np.quantile(latency_ms, 0.95)),
    )
    return ManifestParts(fitted, reference, build_self_test(predictor, _input_rows(features, table.rows)))


def _answers(predictor: Predictor, rows: Sequence[Row]) -> list[Answer]:
    try:
        return predictor.predict(rows)
    except ArtifactError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        _check_each(predictor, rows)
        why = f" ({error})" if isinstance(error, AnswerError) else ""
        raise ArtifactError(
            f"the model answers one row and not {len(rows)} at once{why}: export it with a free "
            "first dimension from its inputs to its outputs, without a Reshape to a fixed one"
        ) from error


def _check_each(predictor: Predictor, rows: Sequence[Row]) -> None:
    """Raise ArtifactError that names the first row that the model cannot answer alone."""
    for number, row in enumerate(rows, FIRST_ROW):
        try:
            predictor.predict((row,))
        except Exception as error:
            what = "cannot answer" if isinstance(error, FeatureError | AnswerError) else "fails on"
            raise ArtifactError(f"the model {what} the CSV's rows: row {number}: {error}") from error


def _sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Sort as trainers number classes: whole numbers by value, others by name."""
    whole = all(name.lstrip("-").isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if whole else (0, name)))


def _in_score_order(known: tuple[str, ...], answers: Sequence[Answer]) -> tuple[str, ...]:
    """Find which class each column of scores stands for, from the labels that go with its highest scores."""
    together: Counter[tuple[int, str]] = Counter()
    for answer in answers:
        if answer.scores is not None:
            scores = list(answer.scores.values())
            together[scores.index(max(scores)), str(answer.prediction)] += 1
    order: dict[int, str] = {}
    for (column, name), _ in sorted(together.items(), key=lambda item: (-item[1], item[0])):
        if column not in order and name not in order.values():
            order[column] = name
    rest = [name for name in known if name not in order.values()]
    ordered = tuple(order.get(column) or rest.pop(0) for column in range(len(known)))
    if ordered != known and len(known) - len(order) > 1:
        raise ArtifactError(
            f"the model does not score its classes in the order {list(known)}, and the CSV's rows do not "
            "show which: state the classes in the order of its scores, or give rows of every class"
        )
    return ordered


def _check_scores(answers: Sequence[Answer]) -> None:
    """Without a label output the scores alone decide, so they must be probabilities."""
    if not all(answer.scores is not None and are_probabilities(answer.scores) for answer in answers):
        raise ArtifactError(
            "the model's only output is not a probability per class: end it with a softmax (or, for two "
            "classes and one column, a sigmoid)"
        )


def _check_order(
    classes: tuple[str, ...], answers: Sequence[Answer], labels: Sequence[str | float], *, named: bool
) -> None:
    """Refuse answers that fit the labels in another order. ``named``: the model itself names its classes."""
    better = better_order(
        classes, [str(answer.prediction) for answer in answers], [str(label) for label in labels]
    )
    if better is None:
        return
    right = f"the model is right on {better.right_as_stated} of {len(answers)} rows"
    if named:
        raise ArtifactError(
            f"{right}, and would be on {better.right} if its answers {list(better.classes)} were called "
            f"{list(classes)}: it names its classes itself, so look at what it was trained on, and at the "
            "labels of the CSV"
        )
    more_rows = "" if better.has_all_classes else ", or give rows of every class"
    raise ArtifactError(
        f"{right} if its classes are {list(classes)} in this order, and would be on {better.right} in "
        f"another: state the classes as {list(better.classes)}{more_rows}"
    )


def _as_classes(labels: tuple[str | float, ...], classes: tuple[str, ...] | None) -> tuple[str | float, ...]:
    """Return the labels as the spec spells its classes; others stay as they are, to be refused."""
    if classes is None:
        return labels
    declared = Classes.of(classes)
    return tuple(label if (known := declared.read(label)) is None else known for label in labels)


def _input_rows(features: Sequence[FeatureSpec], rows: Sequence[Row]) -> list[Row]:
    """The rows with the model's features alone: a self-test needs no more, and a manifest is public."""
    names = [feature.name for feature in features]
    return [{name: row.get(name) for name in names} for row in rows]
