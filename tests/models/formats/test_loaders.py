"""Only what is allowed is loaded, and what is loaded answers in the same shape whatever it was made with."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from driftloop.models.formats.features import FeatureError
from driftloop.models.formats.fitted import Answer, AnswerError, Fitted
from driftloop.models.formats.loaders import load
from driftloop.models.formats.onnx_guard import check_onnx
from driftloop.models.formats.river_json import NumberScale, RiverModel
from driftloop.schemas.errors import ArtifactError
from driftloop.schemas.serving import ArtifactFormat, FeatureSpec
from driftloop.schemas.spec.model import HistGradientBoosting, RiverLinear
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.models import onnx as brought
from tests.support.models.worlds import fit, world

X, Y = FeatureSpec(name="x", type="number"), FeatureSpec(name="y", type="number")


def classifier(data: bytes, classes: tuple[str, ...] = ("a", "b"), *features: FeatureSpec) -> Fitted:
    return Fitted("onnx", data, features or (X, Y), classes)


def ask(fitted: Fitted, *rows: dict[str, Any]) -> list[Answer]:
    return load(fitted, fitted.data).predict(list(rows))


LEFT, RIGHT = {"x": 1.0, "y": -1.0}, {"x": -1.0, "y": 1.0}


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize(
    ("labels", "classes"), [(["a", "b"], ("a", "b")), ([0, 1], ("0", "1")), ([5, 7], ("5", "7"))]
)
def test_labels_and_scores_are_known_by_class_names(
    labels: list[Any], classes: tuple[str, ...], zipmap: bool
) -> None:
    left, right = ask(classifier(brought.linear_classifier(labels, zipmap=zipmap), classes), LEFT, RIGHT)
    assert (left.prediction, right.prediction) == classes
    assert left.scores is not None
    assert list(left.scores) == list(classes)
    assert left.scores[classes[0]] > 0.9
    assert sum(left.scores.values()) == pytest.approx(1)


def test_numbered_labels_name_classes_by_position_where_no_class_is_a_number() -> None:
    left, right = ask(classifier(brought.linear_classifier([0, 1]), ("late", "on_time")), LEFT, RIGHT)
    assert (left.prediction, right.prediction) == ("late", "on_time")


def test_a_label_that_is_no_class_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match="answers '0', which is not one of its classes"):
        ask(classifier(brought.linear_classifier([0, 1]), ("1", "2")), LEFT)


@pytest.mark.parametrize("width", [2, None])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_scores_alone_decide_by_the_highest(width: int | None, kind: int) -> None:
    left, right = ask(classifier(brought.softmax_matrix(width, kind)), LEFT, RIGHT)
    assert (left.prediction, right.prediction) == ("a", "b")
    assert left.scores == pytest.approx({"a": 0.880797, "b": 0.119203})


@pytest.mark.parametrize("flat", [False, True])
def test_one_probability_is_of_the_second_class(flat: bool) -> None:
    high, low = ask(classifier(brought.sigmoid_column(flat=flat), ("a", "b"), X), {"x": 3.0}, {"x": -3.0})
    assert (high.prediction, low.prediction) == ("b", "a")
    assert high.scores == pytest.approx({"a": 0.047426, "b": 0.952574}, abs=1e-6)


def test_named_inputs_take_each_feature_as_its_type() -> None:
    features = (
        FeatureSpec(name="colour", type="category", categories=("red",)),
        FeatureSpec(name="amount", type="number"),
        FeatureSpec(name="count", type="number"),
        FeatureSpec(name="flag", type="bool"),
    )
    fitted = Fitted("onnx", brought.named_inputs(), features, None, "regression")
    row = {"colour": "red", "amount": 0.5, "count": 2, "flag": True}
    answers = ask(fitted, row, {**row, "colour": None}, {**row, "colour": "blue", "flag": False})
    assert [answer.prediction for answer in answers] == [1120.5, 120.5, 20.5]
    for wrong in ({"count": None}, {"count": 1.5}, {"count": "2"}, {"flag": None}, {"amount": "x"}):
        with pytest.raises(FeatureError, match=f"feature {next(iter(wrong))}"):
            ask(fitted, {**row, **wrong})


@pytest.mark.parametrize(
    ("fitted", "problem"),
    [
        (classifier(brought.softmax_matrix(2), ("a", "b"), X), "takes 2 features, and 1 are stated"),
        (replace(classifier(brought.softmax_matrix()), classes=None), "needs its classes named"),
        (
            Fitted("onnx", brought.named_inputs(), (X,), None, "regression"),
            r"not stated: \['amount', 'colour', 'count', 'flag'\]; not taken: \['x'\]",
        ),
    ],
)
def test_a_model_that_is_not_what_its_manifest_says_is_refused(fitted: Fitted, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        load(fitted, fitted.data)


def test_scores_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"shape \(1, 2\), and 3 classes"):
        ask(classifier(brought.softmax_matrix(), ("a", "b", "c")), LEFT)


def test_an_answer_that_is_no_number_is_a_failed_request_and_says_so() -> None:
    regression = Fitted("onnx", brought.identity_matrix(1), (X,), None, "regression")
    assert ask(regression, {"x": 2.5})[0].prediction == 2.5
    for fitted in (regression, classifier(brought.softmax_matrix())):
        with pytest.raises(AnswerError, match="does it take nulls"):
            ask(fitted, {"x": None})
    far = RiverModel(
        task="regression", numbers=(NumberScale(name="x", mean=0, scale=1e-300),), categories=(),
        weights=((1e10,),), intercepts=(0.0,),
    )  # fmt: skip
    with pytest.raises(AnswerError, match="this large"):
        ask(Fitted("river-json", far.model_dump_json().encode(), (X,), None, "regression"), {"x": 1e38})


def test_a_missing_library_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "driftloop.models.formats.onnx_model", None)
    with pytest.raises(ArtifactError, match=r"pip install 'driftloop\[serve\]'"):
        load(classifier(brought.softmax_matrix()), brought.softmax_matrix())


def test_no_rows_get_no_answers() -> None:
    assert ask(classifier(brought.softmax_matrix())) == []


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("format_", ["onnx", "river-json"])
@pytest.mark.parametrize(
    "data", [pickle.dumps(Bomb()), b"", b"{}", b"\x00" * 100, b"PK\x03\x04zip", b"\xff" * 9]
)
def test_bytes_that_are_no_model_are_refused_unrun(data: bytes, format_: ArtifactFormat) -> None:
    with pytest.raises(ArtifactError):
        load(Fitted(format_, data, (X,), ("a", "b")), data)


def test_a_format_off_the_list_and_too_many_bytes_are_refused() -> None:
    with pytest.raises(ArtifactError, match="'pickle' is not one of onnx, river-json"):
        load(Fitted(cast("ArtifactFormat", "pickle"), b"x", (X,), None), b"x")
    data = brought.softmax_matrix()
    with pytest.raises(ArtifactError, match=f"has {len(data)} bytes, more than the 10 allowed"):
        load(classifier(data), data, max_bytes=10)


def _external(name: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def _around(*nodes: Any, **kwargs: Any) -> bytes:
    """A model that adds ``k``, which the nodes make."""
    return brought.one_node("Add", ["X", "k"], before=nodes, **kwargs)


def _if_branch(node: Any) -> bytes:
    branch = helper.make_graph([node], "b", [], [brought.tensor("k", brought.FLOAT, 2)])
    condition = helper.make_tensor("c", brought.BOOL, [], [True])
    return _around(
        helper.make_node("If", ["c"], ["k"], then_branch=branch, else_branch=branch), initializers=[condition]
    )


def _sparse() -> bytes:
    places = helper.make_tensor("i", brought.INT64, [2], [0, 1])
    sparse = helper.make_sparse_tensor(_external("k"), places, [2])
    return _around(helper.make_node("Constant", [], ["k"], sparse_value=sparse))


OURS = helper.make_node("Evil", [], ["k"], domain="com.evil")
CONSTANT = helper.make_node("Constant", [], ["k"], value=_external("k"))
IDENTITY = helper.make_node("Identity", ["a"], ["b"])
FUNCTION = helper.make_function("", "F", ["a"], ["b"], [IDENTITY], [helper.make_opsetid("", 15)])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (_around(OURS, domains=("", "com.evil")), "'com.evil'"),
        (_around(OURS), "operator Evil is of domain 'com.evil'"),
        (_around(helper.make_node("Gelu", ["X"], ["k"], domain="com.microsoft")), "'com.microsoft'"),
        (_if_branch(OURS), "operator Evil is of domain"),
        (_around(CONSTANT), "keeps tensors in other files"),
        (_if_branch(CONSTANT), "keeps tensors in other files"),
        (_sparse(), "keeps tensors in other files"),
        (_around(initializers=[_external("k")]), "keeps tensors in other files"),
        (
            _around(helper.make_node("F", ["X"], ["k"], domain=""), functions=[FUNCTION]),
            "functions of its own",
        ),
        (b"\x18\x00\x00\x00ORTM" + b"\x00" * 64, r"\.ort"),
    ],
)
def test_what_an_onnx_file_must_not_hold_is_refused_before_onnxruntime_sees_it(
    data: bytes, problem: str
) -> None:
    with pytest.raises(ArtifactError, match=problem):
        check_onnx(data)


def test_the_word_location_alone_is_no_reason_to_refuse() -> None:
    data = brought.one_node("Identity", ["location"], width=1)
    feature = FeatureSpec(name="location", type="number")
    assert ask(Fitted("onnx", data, (feature,), None, "regression"), {"location": 2})[0].prediction == 2.0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_onnx_file_is_refused_or_answers_but_nothing_else_happens(data: st.DataObject) -> None:
    good = bytearray(brought.linear_classifier(["a", "b"]))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(good[: data.draw(st.integers(1, len(good)))])
    with contextlib.suppress(ArtifactError):
        load(classifier(damaged), damaged)


def _river() -> Fitted:
    return fit(RiverLinear(), world(200, seed=1))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weights": [[1.0]]}, "each output needs"),
        ({"intercepts": []}, "one intercept"),
        ({"kind": "river-linear/2"}, "kind"),
        ({"extra": 1}, "extra"),
        ({"task": "regression"}, "is a regression, and a classification is stated"),
        ({"numbers": []}, "each output needs"),
        ({"intercepts": ["1.0"]}, "intercepts"),
        ({"weights": [[None] * 6]}, "weights"),
    ],
)
def test_a_river_json_that_is_not_whole_is_refused_by_field(change: dict[str, Any], problem: str) -> None:
    fitted = _river()
    data = orjson.dumps(orjson.loads(fitted.data) | change)
    with pytest.raises(ArtifactError, match=problem):
        load(fitted, data)


def test_a_river_json_of_other_features_or_classes_is_refused() -> None:
    fitted = _river()
    reordered = {"categories": ("red", "green", "blue")}
    features = tuple(f.model_copy(update=reordered) if f.categories else f for f in fitted.features)
    for other, problem in (
        ({"features": (X,)}, "not the stated features"),
        ({"features": fitted.features[:-1]}, "not the stated features"),
        ({"classes": ("a", "b", "c")}, "do not fit 3 classes"),
        ({"features": features}, "categories of colour"),
    ):
        with pytest.raises(ArtifactError, match=problem):
            load(replace(fitted, **other), fitted.data)


def test_a_trained_model_loads_without_the_libraries_that_trained_it(tmp_path: Path) -> None:
    fitted = fit(HistGradientBoosting(max_iter=3), world(300, seed=1))
    (tmp_path / "model.onnx").write_bytes(fitted.data)
    (tmp_path / "model.json").write_bytes(_river().data)
    script = """
import sys
from pathlib import Path
from driftloop.streams.serve.hot import swap
from driftloop.models.formats.fitted import AnswerError, Fitted
from driftloop.models.formats.loaders import load
from driftloop.schemas.serving import FeatureSpec
features = tuple(FeatureSpec.decode(line.encode()) for line in sys.argv[2:])
for format_, name in (("onnx", "model.onnx"), ("river-json", "model.json")):
    data = (Path(sys.argv[1]) / name).read_bytes()
    print(load(Fitted(format_, data, features, ("no", "yes")), data).predict([{"x": 1.0}])[0].prediction)
for name in ("sklearn", "scipy", "onnx", "river", "skl2onnx", "confluent_kafka"):
    assert name not in sys.modules, name
"""
    features = [feature.encode().decode() for feature in fitted.features]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *features], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"no", "yes"}
