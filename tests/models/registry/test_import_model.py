"""A model that already exists is taken as it is, or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driftloop.models.formats.fitted import AnswerError
from driftloop.models.formats.loaders import load
from driftloop.models.registry.import_model import build_manifest_parts, inspect_onnx
from driftloop.models.registry.reference_csv import ReferenceTable, read_reference_csv
from driftloop.models.registry.self_test import check_self_test
from driftloop.schemas.errors import ArtifactError
from driftloop.schemas.serving import FeatureType, Task
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.support.models import onnx as brought
from tests.support.models.answers import best_scored


def csv(folder: Path, text: str) -> Path:
    path = folder / "reference.csv"
    path.write_text(text, encoding="utf-8")
    return path


def table(count: int = 60, names: tuple[str, str] = ("a", "b")) -> ReferenceTable:
    """x > y is the first class."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(count, 2)).tolist()
    return ReferenceTable(
        rows=tuple({"x": x, "y": y} for x, y in points),
        labels=tuple(names[0] if x > y else names[1] for x, y in points),
        segments=tuple({"half": "left" if x < 0 else "right"} for x, _ in points),
    )


def test_a_csv_is_read_by_what_its_columns_hold(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "\ufeffn,whole,flag,word,mixed,code,empty,label\n"
        '1.5,2,true,"a, b",1,01234,,late\n'
        "-1e3,3,FALSE,,x,90210,,on_time\n\n"
        ",,,c,,,,late\n",
    )
    read = read_reference_csv(path, task="classification", segments=("word", "flag", "absent"))
    assert read.rows == (
        {"n": 1.5, "whole": 2, "flag": True, "word": "a, b", "mixed": "1", "code": "01234", "empty": None},
        {"n": -1000.0, "whole": 3, "flag": False, "word": None, "mixed": "x", "code": "90210", "empty": None},
        {"n": None, "whole": None, "flag": None, "word": "c", "mixed": None, "code": None, "empty": None},
    )
    assert read.labels == ("late", "on_time", "late")
    assert read.segments == ({"word": "a, b", "flag": "true"}, {"flag": "false"}, {"word": "c"})


@pytest.mark.parametrize("cells", [("true", "false"), ("True", "FALSE"), ("1", "0"), ("1.0", "0.0")])
def test_a_flag_is_one_segment_in_whatever_spelling(cells: tuple[str, str], tmp_path: Path) -> None:
    path = csv(tmp_path, f"flag,label\n{cells[0]},late\n{cells[1]},late\n")
    read = read_reference_csv(path, task="classification", segments=("flag",), types={"flag": "bool"})
    assert read.segments == ({"flag": "true"}, {"flag": "false"})


def test_a_declared_category_is_what_is_written(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,c,d,label\n1.10,True,1.0,1.0,x\n1.1,,2.0,2.0,y\n")
    kinds: dict[str, FeatureType] = {"a": "category", "b": "category", "c": "number"}
    read = read_reference_csv(path, task="classification", types=kinds)
    assert read.rows == (
        {"a": "1.10", "b": "True", "c": 1.0, "d": 1.0},
        {"a": "1.1", "b": None, "c": 2.0, "d": 2.0},
    )


def test_labels_are_class_names_or_numbers_by_the_task(tmp_path: Path) -> None:
    path = csv(tmp_path, "x,label\n1,0\n2,1.0\n3,true\n")
    assert read_reference_csv(path, task="classification").labels == ("0", "1", "true")
    with pytest.raises(ArtifactError, match=r"row 4: the label must be a number, got 'true'"):
        read_reference_csv(path, task="regression")


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (("0", "1"), ("0", "1", "1", "0", "1.5")),
        (("false", "true"), ("false", "true", "true", "false", "1.5")),
        (("1", "1.0"), ("0", "1.0", "true", "false", "1.5")),  # two that differ in spelling alone
    ],
)
def test_labels_are_the_declared_classes_that_they_mean(
    classes: tuple[str, str], labels: tuple[str, ...], tmp_path: Path
) -> None:
    path = csv(tmp_path, "x,label\n1,0\n2,1.0\n3,True\n4,FALSE\n5,1.50\n")
    assert read_reference_csv(path, task="classification", classes=classes).labels == labels


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("x,label\n", "a header and no rows"),
        ("x,y\n1,2\n", r"no column 'label' \(it has x, y\)"),
        ("x,label\n1,a\n2\n", "row 3: 1 values under 2 names"),
        ("x,label\n1,\n", "row 2: the label is empty"),
    ],
)
def test_a_csv_that_cannot_serve_is_refused_by_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        read_reference_csv(csv(tmp_path, text), task="classification")


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.csv cannot be read"):
        read_reference_csv(tmp_path / "none.csv", task="classification")
    (tmp_path / "bytes.csv").write_bytes(b"x,label\n\xff\xfe,1\n")
    with pytest.raises(ArtifactError, match="UTF-8"):
        read_reference_csv(tmp_path / "bytes.csv", task="classification")


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("stated", [None, ("a", "b"), ("b", "a")])
def test_a_classifier_with_labels_shows_the_order_of_its_scores_itself(
    stated: tuple[str, str] | None, reverse: bool, zipmap: bool
) -> None:
    data = brought.linear_classifier(["a", "b"], zipmap=zipmap, reverse=reverse)
    parts = build_manifest_parts(data, table(), task="classification", classes=stated)
    predictor = load(parts.fitted, data)
    check_self_test(predictor, parts.self_test)
    answers = predictor.predict(table().rows)
    assert [answer.prediction for answer in answers] == list(table().labels)
    for answer in answers:
        assert best_scored(answer) == answer.prediction
    assert parts.reference.accuracy == 1.0
    assert set(parts.reference.segments["half"]) == {"left", "right"}
    assert [(f.name, f.type) for f in parts.fitted.features] == [("x", "number"), ("y", "number")]


def test_numbered_classes_go_by_value() -> None:
    numbered = table(names=("9", "10"))
    _, classes = inspect_onnx(
        brought.linear_classifier([9, 10]), numbered.rows, numbered.labels, None, "classification"
    )
    assert classes == ("9", "10")


def test_scores_alone_must_be_probabilities_in_a_believable_order() -> None:
    good = table()
    parts = build_manifest_parts(brought.softmax_matrix(), good, task="classification")
    assert parts.fitted.classes == ("a", "b")
    with pytest.raises(ArtifactError, match=r"state the classes as \['a', 'b'\]"):
        build_manifest_parts(brought.softmax_matrix(), good, task="classification", classes=("b", "a"))
    with pytest.raises(ArtifactError, match="end it with a softmax"):
        build_manifest_parts(brought.identity_matrix(), good, task="classification")


def test_named_inputs_are_found_in_the_csv_by_name(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "extra,colour,flag,count,amount,label\n" + "1,red,true,2,0.5,1120.5\n9,blue,false,1,3,13\n" * 10,
    )
    read = read_reference_csv(path, task="regression")
    parts = build_manifest_parts(brought.named_inputs(), read, task="regression")
    assert [(f.name, f.type, f.categories) for f in parts.fitted.features] == [
        ("amount", "number", None), ("count", "number", None), ("flag", "bool", None),
        ("colour", "category", ("blue", "red")),
    ]  # fmt: skip
    assert parts.reference.mean_error == 0.0
    assert "extra" not in parts.self_test[0].features  # what the model does not take stays private
    assert "extra" not in parts.reference.numbers
    check_self_test(load(parts.fitted, parts.fitted.data), parts.self_test)


@pytest.mark.parametrize(
    ("data", "text", "task", "problem"),
    [
        (brought.softmax_matrix(), "x,y,z,label\n1,2,3,a\n", "classification", "2 columns .* has 3 beside"),
        (brought.softmax_matrix(), "x,y,label\n1,red,a\n2,blue,b\n", "classification", "and y hold text"),
        (brought.named_inputs(), "amount,label\n1,2\n", "regression", "takes count, flag, colour, which"),
        (
            brought.named_inputs(), "amount,count,flag,colour,label\nmany,1,true,red,1\n", "regression",
            r"amount as a tensor\(float\), and the CSV holds text",
        ),
        (
            brought.named_inputs(), "amount,count,flag,colour,label\n1,,true,red,1\n", "regression",
            "feature count: this model takes whole numbers",
        ),
        (brought.softmax_matrix(), "x,y,label\n1,2,a\n", "classification", "the labels name 1 class"),
        (b"no model", "x,y,label\n1,2,a\n", "classification", "not an ONNX model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_what_to_do(
    data: bytes, text: str, task: Task, problem: str, tmp_path: Path
) -> None:
    read = read_reference_csv(csv(tmp_path, text), task=task)
    with pytest.raises(ArtifactError, match=problem):
        build_manifest_parts(data, read, task=task)


def test_labels_that_are_no_class_of_the_spec_are_named() -> None:
    with pytest.raises(ArtifactError, match=r"the labels name b, which are not among the classes"):
        build_manifest_parts(brought.softmax_matrix(), table(), task="classification", classes=("a", "c"))


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("kind", ["logistic", "forest", "regression", "columns"])
def test_models_exported_by_skl2onnx_are_taken_as_they_are(kind: str, zipmap: bool) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    types_of = pytest.importorskip("skl2onnx.common.data_types")
    number, text = types_of.FloatTensorType([None, 1]), types_of.StringTensorType([None, 1])
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    y = np.where(x[:, 0] > x[:, 1], "up", "down")
    rows: list[dict[str, Any]] = [{"x": float(a), "y": float(b)} for a, b in x]
    labels: list[str | float] = y.tolist()
    types: list[Any] = [("input", types_of.FloatTensorType([None, 2]))]
    task: Task = "classification"
    model: Any = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    if kind == "forest":
        model = RandomForestClassifier(n_estimators=5, random_state=1).fit(x, y)
    elif kind == "regression":
        task, labels = "regression", [float(value) for value in x @ [1.0, 2.0]]
        model = LinearRegression().fit(x, labels)
    elif kind == "columns":
        colours = np.where(x[:, 1] > 0, "red", "blue").reshape(-1, 1).astype(object)
        frame = np.hstack([x.astype(object), colours])
        encode = ColumnTransformer([("n", StandardScaler(), [0, 1]), ("c", OneHotEncoder(), [2])])
        model = make_pipeline(encode, LogisticRegression()).fit(frame, y)
        rows = [{**row, "colour": str(colour)} for row, colour in zip(rows, colours[:, 0], strict=True)]
        types = [("x", number), ("y", number), ("colour", text)]
    options = {} if kind == "regression" else {"zipmap": zipmap}
    try:
        exported = skl2onnx.convert_sklearn(
            model, initial_types=types, options={id(model): options}, target_opset=15
        )
    except (TypeError, ValueError) as error:
        pytest.skip(f"this skl2onnx cannot export it with this protobuf: {str(error)[:60]}")
    data: bytes = exported.SerializeToString()
    given = ReferenceTable(tuple(rows), tuple(labels), ({},) * len(rows))
    parts = build_manifest_parts(
        data, given, task=task, classes=None if kind == "regression" else ("up", "down")
    )
    answers = load(parts.fitted, data).predict(rows)
    if kind == "regression":
        assert [a.prediction for a in answers] == pytest.approx(labels, abs=1e-4)
        return
    expected = model.predict(frame if kind == "columns" else x)
    assert [answer.prediction for answer in answers] == expected.tolist()
    assert all(best_scored(answer) == answer.prediction for answer in answers)
    assert zipmap or parts.fitted.classes == ("down", "up")


@pytest.mark.parametrize("zipmap", [False, True])
def test_a_label_beside_scores_of_nan_is_no_answer(zipmap: bool) -> None:
    data = brought.linear_classifier(["a", "b"], zipmap=zipmap)
    parts = build_manifest_parts(data, table(), task="classification")
    predictor = load(parts.fitted, data)
    assert predictor.predict([{"x": 1.0, "y": 0.0}])[0].prediction == "a"
    with pytest.raises(AnswerError, match="does it take nulls"):
        predictor.predict([{"x": 1.0, "y": None}])
