"""What is served is what was learned: each learner's artifact answers as the library that fitted it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from driftloop.models.formats.features import FeatureEncoder, Row, infer_features
from driftloop.models.formats.fitted import Fitted, LearningError
from driftloop.models.formats.learners import make_learner
from driftloop.models.formats.loaders import load
from driftloop.models.formats.river_json import RiverModel
from driftloop.schemas.errors import SpecError
from driftloop.schemas.serving import FeatureSpec, Task
from driftloop.schemas.spec.model import CustomLearner, HistGradientBoosting, ModelSpec, RiverLinear
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, optim, preprocessing
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from tests.support.models.worlds import world

TREES = HistGradientBoosting(max_iter=40)
ROWS = world(3000, seed=1)
INPUTS: list[Row] = [row.features for row in ROWS]
FEATURES = infer_features(ModelSpec(), INPUTS)
NEW: list[Row] = [row.features for row in world(4000, seed=2)]


def labels(kind: str) -> list[str | float]:
    if kind in ("binary", "one"):
        return [row.label if kind == "binary" else "no" for row in ROWS]
    xs = [float(row.features["x"] or 0) for row in ROWS]
    return ["low" if x < -0.5 else "mid" if x < 0.5 else "high" for x in xs] if kind == "three" else list(xs)


def fitted(kind: str, spec: HistGradientBoosting | RiverLinear, **settings: Any) -> Fitted:
    task: Task = "regression" if kind == "numbers" else "classification"
    given: dict[str, Any] = {"features": FEATURES, "classes": None, "task": task, "seed": 7} | settings
    return make_learner(spec).fit(INPUTS, labels(kind), **given)


def scores_of(model: Fitted, rows: list[Row]) -> np.ndarray[Any, Any]:
    answers = load(model, model.data).predict(rows)
    if model.task == "regression":
        return np.array([[answer.prediction] for answer in answers], dtype=float)
    assert all(
        answer.prediction == max(answer.scores or {}, key=(answer.scores or {}).get) for answer in answers
    )  # type: ignore[arg-type]
    return np.array([list((answer.scores or {}).values()) for answer in answers])


@pytest.mark.parametrize("kind", ["binary", "three", "numbers"])
def test_trees_answer_as_scikit_learn_on_rows_with_nulls_and_unseen_categories(kind: str) -> None:
    model = fitted(kind, TREES)
    encoder = FeatureEncoder(FEATURES)
    settings = {
        "max_iter": 40, "learning_rate": 0.08, "max_leaf_nodes": 31, "min_samples_leaf": 40,
        "l2_regularization": 1.0, "early_stopping": False, "random_state": 7,
    }  # fmt: skip
    rows = [*INPUTS, *NEW, *[{**row, "colour": "purple"} for row in NEW[:500]], {}]
    if kind == "numbers":
        regressor = HistGradientBoostingRegressor(**settings).fit(encoder.encode(INPUTS), labels(kind))
        expected = regressor.predict(encoder.encode(rows)).reshape(-1, 1)
    else:
        classifier = HistGradientBoostingClassifier(**settings).fit(encoder.encode(INPUTS), labels(kind))
        expected = classifier.predict_proba(encoder.encode(rows))
        assert model.classes == tuple(classifier.classes_)
    assert np.abs(scores_of(model, rows) - expected).max() < 1e-5


@pytest.mark.parametrize("neighbour", [-np.inf, 0.0, np.inf])
def test_rows_on_a_trees_threshold_go_where_scikit_learn_sends_them(neighbour: float) -> None:
    rng = np.random.default_rng(3)
    # Float32 values so close that the mean of two, a threshold in float64, is none of them.
    close = np.float32(1.0) + np.arange(400, dtype=np.float32) * np.finfo(np.float32).eps
    xs = rng.choice(close, size=2000)
    rows: list[Row] = [{"x": float(x)} for x in xs]
    targets: list[str | float] = [float(y) for y in np.sin((xs - 1) * 1e6) + rng.normal(size=2000) * 0.1]
    features = (FeatureSpec(name="x", type="number"),)
    model = make_learner(TREES).fit(rows, targets, features=features, classes=None, task="regression", seed=7)
    matrix = FeatureEncoder(features).encode(rows)
    reference = HistGradientBoostingRegressor(
        max_iter=40, learning_rate=0.08, min_samples_leaf=40, l2_regularization=1.0, early_stopping=False
    ).fit(matrix, targets)
    asked = close if neighbour == 0 else np.nextafter(close, np.float32(neighbour))
    got = scores_of(model, [{"x": float(x)} for x in asked])
    assert np.abs(got[:, 0] - reference.predict(asked.reshape(-1, 1))).max() < 1e-5


@pytest.mark.parametrize("spec", [TREES, RiverLinear()])
def test_the_same_rows_and_seed_give_the_same_bytes(spec: HistGradientBoosting | RiverLinear) -> None:
    assert fitted("three", spec).data == fitted("three", spec).data


@pytest.mark.parametrize("spec", [TREES, RiverLinear()])
def test_scores_stand_in_the_order_of_the_classes_given(spec: HistGradientBoosting | RiverLinear) -> None:
    model = fitted("three", spec, classes=("mid", "absent", "high", "low"))
    assert model.classes == ("mid", "high", "low")
    wanted = load(fitted("three", spec), fitted("three", spec).data).predict(NEW[:300])
    got = load(model, model.data).predict(NEW[:300])
    assert np.mean([a.prediction == b.prediction for a, b in zip(wanted, got, strict=True)]) > 0.99
    assert list(got[0].scores or {}) == ["mid", "high", "low"]


@pytest.mark.parametrize("spec", [TREES, RiverLinear()])
@pytest.mark.parametrize("one_class", [None, ("no", "yes")])
def test_nothing_is_learned_from_one_class_and_the_error_says_so(
    spec: HistGradientBoosting | RiverLinear, one_class: tuple[str, ...] | None
) -> None:
    with pytest.raises(LearningError, match=r"at least two classes .*\['no'\]"):
        fitted("one", spec, classes=one_class)


@pytest.mark.parametrize("spec", [TREES, RiverLinear()])
def test_a_column_of_nulls_only_does_no_harm(spec: HistGradientBoosting | RiverLinear) -> None:
    never = FeatureSpec(name="never", type="number"), FeatureSpec(name="none", type="category")
    model = fitted("binary", spec, features=(*FEATURES, *never))
    predictor = load(model, model.data)
    plain, strange = predictor.predict([NEW[0], {**NEW[0], "never": 5.0, "none": "x"}])
    assert plain == strange


def _river(kind: str, spec: RiverLinear) -> Any:
    sgd = optim.SGD(spec.learning_rate)
    settings = {"l2": spec.l2, "intercept_lr": spec.learning_rate, "clip_gradient": 10.0}
    if kind == "binary":
        return linear_model.LogisticRegression(sgd, **settings)
    if kind == "three":
        return linear_model.SoftmaxRegression(sgd, l2=spec.l2)
    return preprocessing.TargetStandardScaler(linear_model.LinearRegression(sgd, **settings))


@pytest.mark.parametrize("kind", ["binary", "three", "numbers"])
@pytest.mark.parametrize("spec", [RiverLinear(), RiverLinear(l2=0.001, learning_rate=0.01, passes=2)])
def test_river_json_answers_as_a_river_pipeline(kind: str, spec: RiverLinear) -> None:
    model = fitted(kind, spec)
    scaler, learner = preprocessing.StandardScaler(), _river(kind, spec)
    encoder = FeatureEncoder(FEATURES)
    numbers = [f.name for f in FEATURES if f.type != "category"]

    def inputs(row: Row, *, learn: bool) -> dict[str, float]:
        encoded = dict(zip([f.name for f in FEATURES], encoder.encode([row])[0].tolist(), strict=True))
        known = {name: encoded[name] for name in numbers if not np.isnan(encoded[name])}
        if learn:
            scaler.learn_one(known)
        hot = {f"{f.name}={row[f.name]}": 1.0 for f in FEATURES if f.name not in numbers}
        constant = {"1": 1.0} if kind == "three" else {}
        return {**scaler.transform_one(known), **hot, **constant}

    for turn in range(spec.passes):
        for row, label in zip(INPUTS, labels(kind), strict=True):
            learner.learn_one(inputs(row, learn=turn == 0), label == "yes" if kind == "binary" else label)
    expected: list[list[float]] = []
    for row in NEW[:500]:
        asked = inputs(row, learn=False)
        if kind == "numbers":
            expected.append([learner.predict_one(asked)])
        else:
            shares = learner.predict_proba_one(asked)
            order = [False, True] if kind == "binary" else ["high", "low", "mid"]
            expected.append([shares[name] for name in order])
    assert np.abs(scores_of(model, NEW[:500]) - np.array(expected)).max() < 1e-9


def test_weights_that_run_away_are_refused_with_the_cure() -> None:
    spec = RiverLinear(learning_rate=1e3, l2=1e3)
    with pytest.raises(LearningError, match="smaller learning_rate"):
        fitted("numbers", spec)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_river_model_survives_its_json(data: st.DataObject) -> None:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    size = data.draw(st.integers(1, 4))
    model = RiverModel.model_validate(
        {
            "task": "regression",
            "numbers": tuple(
                {"name": f"n{i}", "mean": data.draw(finite), "scale": abs(data.draw(finite))}
                for i in range(size)
            ),
            "categories": (),
            "weights": (tuple(data.draw(finite) for _ in range(size)),),
            "intercepts": (data.draw(finite),),
        }
    )
    assert RiverModel.model_validate_json(model.model_dump_json()) == model


class Constant:
    """A learner of somebody's own: river-json that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def fit(self, rows: Any, labels: Any, *, features: Any, classes: Any, task: Task, seed: int) -> Fitted:
        model = RiverModel(
            task="regression", numbers=(), categories=(), weights=((),), intercepts=(0.0,),
            target_mean=self.value,
        )  # fmt: skip
        return Fitted("river-json", model.model_dump_json().encode(), (), None, task)


NOT_A_LEARNER = dict


def test_a_learner_of_ones_own_is_made_by_its_factory() -> None:
    spec = CustomLearner(kind="custom", factory=f"{__name__}:Constant", parameters={"value": 4.5})
    model = make_learner(spec).fit([], [], features=(), classes=None, task="regression", seed=1)
    assert load(model, model.data).predict([{"x": 1}])[0].prediction == 4.5


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("no_such_package:Learner", "cannot be imported"),
        (f"{__name__}:NoSuchClass", "cannot be imported"),
        (f"{__name__}:NOT_A_LEARNER", "must return an object with fit"),
    ],
)
def test_a_factory_that_makes_no_learner_is_named(factory: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        make_learner(CustomLearner(kind="custom", factory=factory))
