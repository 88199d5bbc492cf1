"""river's linear models: one pass (or a few) over the rows, oldest first, into plain numbers.

StandardScaler for numbers and bools, one-hot for categories, then LogisticRegression (two classes),
SoftmaxRegression (more) or LinearRegression under a TargetStandardScaler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from river import linear_model, optim, preprocessing

from ...schemas.serving import FeatureSpec, Task
from ...schemas.spec.model import RiverLinear
from .features import FeatureEncoder, Row
from .fitted import Fitted, LearningError, classes_present
from .river_json import CategoryValues, NumberScale, RiverModel

# A single outlier must not spoil the weights; standardised errors are rarely beyond this.
_CLIP_GRADIENT = 10.0
_CONSTANT = -1  # SoftmaxRegression has no intercept: an input that is always 1 stands for it

Inputs = dict[Hashable, float]  # keyed by the input's place; river takes any hashable


@dataclass(frozen=True, slots=True)
class RiverLearner:
    """Learns a linear model by stochastic gradient descent; row order matters, nothing is random."""

    spec: RiverLinear

    def fit(
        self,
        rows: Sequence[Row],
        labels: Sequence[str | float],
        *,
        features: tuple[FeatureSpec, ...],
        classes: tuple[str, ...] | None,
        task: Task,
        seed: int,
    ) -> Fitted:
        layout = _Layout(features)
        encoded = layout.encode(rows)
        kept = classes_present(labels, classes) if task == "classification" else None
        try:
            model = self._model(layout, encoded, labels, kept)
        except (ValidationError, OverflowError) as error:  # the format takes finite numbers only
            raise LearningError("the weights diverged: choose a smaller learning_rate") from error
        return Fitted("river-json", model.model_dump_json().encode(), features, kept, task)

    def _model(
        self,
        layout: _Layout,
        encoded: list[_RowInputs],
        labels: Sequence[str | float],
        classes: tuple[str, ...] | None,
    ) -> RiverModel:
        if classes is None:
            return _regression(self.spec, layout, encoded, [float(label) for label in labels])
        places = [classes.index(str(label)) for label in labels]
        fit = _logistic if len(classes) == 2 else _softmax
        return fit(self.spec, layout, encoded, places)


class _RowInputs(NamedTuple):
    """A row's numbers, to be scaled, and its one-hot inputs; nulls are absent from both."""

    numbers: Inputs
    one_hot: Inputs


class _Layout:
    """Where each input of the linear model comes from: numbers first, then every category's values."""

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        self._encoder = FeatureEncoder(features)
        self._kinds = [feature.type == "category" for feature in features]
        self.numbers = [feature.name for feature in features if feature.type != "category"]
        self.categories = [
            CategoryValues(name=feature.name, values=feature.categories or ())
            for feature in features
            if feature.type == "category"
        ]
        self.width = len(self.numbers) + sum(len(category.values) for category in self.categories)

    def encode(self, rows: Sequence[Row]) -> list[_RowInputs]:
        return [self._split(row) for row in cast("list[list[float]]", self._encoder.encode(rows).tolist())]

    def _split(self, row: list[float]) -> _RowInputs:
        numbers: Inputs = {}
        hot: Inputs = {}
        number, offset, category = 0, len(self.numbers), 0
        for value, is_category in zip(row, self._kinds, strict=True):
            if is_category:
                if value == value:
                    hot[offset + int(value)] = 1.0
                offset += len(self.categories[category].values)
                category += 1
            else:
                if value == value:
                    numbers[number] = value
                number += 1
        return _RowInputs(numbers, hot)

    def scales(self, scaler: preprocessing.StandardScaler) -> tuple[NumberScale, ...]:
        """The scaler's state as the artifact keeps it; a column that was always null is always 0."""
        means, variances = cast("Mapping[int, float]", scaler.means), cast("Mapping[int, float]", scaler.vars)
        return tuple(
            NumberScale(
                name=name, mean=float(means.get(i, 0.0)), scale=math.sqrt(max(variances.get(i, 0.0), 0.0))
            )
            for i, name in enumerate(self.numbers)
        )

    def weights(self, by_input: Mapping[int, float]) -> tuple[float, ...]:
        return tuple(float(by_input.get(i, 0.0)) for i in range(self.width))


def _pass_over(
    spec: RiverLinear, encoded: list[_RowInputs], learn: Callable[[Inputs, int], None]
) -> preprocessing.StandardScaler:
    scaler = preprocessing.StandardScaler()
    for turn in range(spec.passes):
        for place, (numbers, hot) in enumerate(encoded):
            if turn == 0:  # the scaler has seen every row after the first pass
                scaler.learn_one(numbers)
            scaled = cast("Inputs", scaler.transform_one(numbers))
            learn(scaled | hot, place)
    return scaler


def _logistic(spec: RiverLinear, layout: _Layout, encoded: list[_RowInputs], places: list[int]) -> RiverModel:
    model = linear_model.LogisticRegression(optim.SGD(spec.learning_rate), **_settings(spec))
    scaler = _pass_over(spec, encoded, lambda inputs, i: model.learn_one(inputs, bool(places[i])))
    return RiverModel(
        task="classification",
        numbers=layout.scales(scaler),
        categories=tuple(layout.categories),
        weights=(layout.weights(_weights(model)),),
        intercepts=(_float(cast("object", model.intercept)),),
    )


def _softmax(spec: RiverLinear, layout: _Layout, encoded: list[_RowInputs], places: list[int]) -> RiverModel:
    l2 = cast("int", spec.l2)  # an untyped default
    model = linear_model.SoftmaxRegression(optim.SGD(spec.learning_rate), l2=l2)
    scaler = _pass_over(spec, encoded, lambda row, i: model.learn_one(row | {_CONSTANT: 1.0}, places[i]))
    weights = cast("Mapping[int, Mapping[int, float]]", model.weights)
    outputs = range(max(places) + 1)
    return RiverModel(
        task="classification",
        numbers=layout.scales(scaler),
        categories=tuple(layout.categories),
        weights=tuple(layout.weights(weights[output]) for output in outputs),
        intercepts=tuple(float(weights[output].get(_CONSTANT, 0.0)) for output in outputs),
    )


def _regression(
    spec: RiverLinear, layout: _Layout, encoded: list[_RowInputs], labels: list[float]
) -> RiverModel:
    inner = linear_model.LinearRegression(optim.SGD(spec.learning_rate), **_settings(spec))
    model = preprocessing.TargetStandardScaler(inner)
    scaler = _pass_over(spec, encoded, lambda inputs, i: model.learn_one(inputs, labels[i]))
    return RiverModel(
        task="regression",
        numbers=layout.scales(scaler),
        categories=tuple(layout.categories),
        weights=(layout.weights(_weights(inner)),),
        intercepts=(_float(cast("object", inner.intercept)),),
        target_mean=_float(model.var.mean.get()),
        target_scale=math.sqrt(max(_float(model.var.get()), 0.0)),
    )


def _settings(spec: RiverLinear) -> dict[str, Any]:
    return {"l2": spec.l2, "intercept_lr": spec.learning_rate, "clip_gradient": _CLIP_GRADIENT}


def _weights(model: linear_model.LogisticRegression | linear_model.LinearRegression) -> Mapping[int, float]:
    return cast("Mapping[int, float]", model.weights)


def _float(value: object) -> float:
    return float(cast("float", value))
