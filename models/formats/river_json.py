"""The river-json format: a linear model as plain numbers, and its predictor.

Numbers are standardised (null → the mean), categories one-hot encoded (unseen and null → nothing); then
``weights`` (outputs × inputs: numbers first, then each category's values) and ``intercepts``. One output is
a logit for ``classes[1]`` or a regression's standardised value; several are a softmax over ``classes``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...schemas.errors import ArtifactError
from ...schemas.reasons.validation import first_reason
from .features import FeatureEncoder, Row
from .fitted import Answer, AnswerError, ModelSignature

Floats = NDArray[np.float64]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NumberScale(_Strict):
    """(value − mean) / scale; a scale of 0 means that the value never varied: always 0."""

    name: str
    mean: float
    scale: Annotated[float, Field(ge=0)]


class CategoryValues(_Strict):
    """One input per value."""

    name: str
    values: tuple[str, ...]


class RiverModel(_Strict):
    """The whole artifact."""

    kind: Literal["river-linear/1"] = "river-linear/1"
    task: Literal["classification", "regression"]
    numbers: tuple[NumberScale, ...]
    categories: tuple[CategoryValues, ...]
    weights: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    target_mean: float = 0.0
    target_scale: float = 1.0

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        inputs = len(self.numbers) + sum(len(category.values) for category in self.categories)
        if not self.weights or any(len(row) != inputs for row in self.weights):
            raise ValueError(f"each output needs {inputs} weights")
        if len(self.intercepts) != len(self.weights):
            raise ValueError("each output needs one intercept")
        return self


class RiverPredictor:
    """Answers with a river-json model. Thread safe: it is only read."""

    def __init__(self, signature: ModelSignature, data: bytes) -> None:
        """Raise ArtifactError if the bytes are not such a model or do not fit the signature."""
        try:
            model = RiverModel.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactError(first_reason("river-json", error)) from error
        self._classes = _outputs(model, signature)
        numbers = {column.name: column for column in model.numbers}
        values = {column.name: column.values for column in model.categories}
        kinds = {feature.name: feature.type for feature in signature.features}
        if {*numbers, *values} != set(kinds) or len(model.numbers) + len(model.categories) != len(kinds):
            raise ArtifactError("river-json: its inputs are not the stated features")
        for feature in signature.features:
            if feature.type == "category" and values.get(feature.name) != (feature.categories or ()):
                raise ArtifactError(f"river-json: the categories of {feature.name} are not the stated ones")
            if feature.type != "category" and feature.name not in numbers:
                raise ArtifactError(f"river-json: {feature.name} is stated as a {feature.type}")
        self._encode = FeatureEncoder(signature.features).encode
        names = [feature.name for feature in signature.features]
        self._number_columns = [names.index(column.name) for column in model.numbers]
        self._means = np.array([column.mean for column in model.numbers])
        self._inverse_scales = np.array([1 / c.scale if c.scale > 0 else 0.0 for c in model.numbers])
        weights = np.array(model.weights, dtype=np.float64)
        self._number_weights = weights[:, : len(model.numbers)].T
        self._intercepts = np.array(model.intercepts)
        self._category_weights = [
            (names.index(category.name), _with_unseen(weights[:, start:stop]))
            for category, (start, stop) in zip(model.categories, _spans(model), strict=True)
        ]
        self._target_mean, self._target_scale = model.target_mean, model.target_scale

    def predict(self, rows: Sequence[Row]) -> list[Answer]:
        """See ``Predictor.predict``."""
        if not rows:
            return []
        raw = self._raw(rows)
        if not np.isfinite(raw).all():
            raise AnswerError("the model answers NaN or infinity: are the features' numbers this large?")
        classes = self._classes
        if classes is None:
            values = raw[:, 0] * self._target_scale + self._target_mean
            return [Answer(value) for value in cast("list[float]", values.tolist())]
        scores = _logistic(raw[:, 0]) if raw.shape[1] == 1 else _softmax(raw)
        best = cast("list[int]", scores.argmax(axis=1).tolist())
        by_class = cast("list[list[float]]", scores.tolist())
        return [
            Answer(classes[place], dict(zip(classes, row, strict=True)))
            for place, row in zip(best, by_class, strict=True)
        ]

    def _raw(self, rows: Sequence[Row]) -> Floats:
        encoded = self._encode(rows).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks
            scaled = (encoded[:, self._number_columns] - self._means) * self._inverse_scales
            raw = np.where(np.isnan(scaled), 0.0, scaled) @ self._number_weights + self._intercepts
        for column, weights in self._category_weights:
            index = encoded[:, column]
            raw += weights[np.where(np.isnan(index), -1, index).astype(np.intp)]
        return raw


def _outputs(model: RiverModel, signature: ModelSignature) -> tuple[str, ...] | None:
    if model.task != signature.task:
        raise ArtifactError(f"river-json: it is a {model.task}, and a {signature.task} is stated")
    outputs = len(model.weights)
    if signature.task == "regression":
        if outputs != 1:
            raise ArtifactError(f"river-json: a regression has one output, not {outputs}")
        return None
    classes = signature.classes or ()
    if len(classes) != (2 if outputs == 1 else outputs):
        raise ArtifactError(f"river-json: {outputs} outputs do not fit {len(classes)} classes")
    return classes


def _spans(model: RiverModel) -> list[tuple[int, int]]:
    sizes = [len(model.numbers), *(len(category.values) for category in model.categories)]
    return list(itertools.pairwise(itertools.accumulate(sizes)))


def _with_unseen(weights: Floats) -> Floats:
    """Values × outputs, with a last row of zeros that index -1 finds."""
    return np.vstack([weights.T, np.zeros((1, weights.shape[0]))])


def _logistic(raw: Floats) -> Floats:
    positive = 1.0 / (1.0 + np.exp(-np.clip(raw, -500, 500)))
    return np.column_stack([1.0 - positive, positive])


def _softmax(raw: Floats) -> Floats:
    shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
