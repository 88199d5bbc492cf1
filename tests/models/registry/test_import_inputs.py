"""Whatever a model takes, it is served, or an error says which export of it would be."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from driftloop.models.formats.features import FeatureError
from driftloop.models.formats.loaders import load
from driftloop.models.registry.import_model import ManifestParts, build_manifest_parts
from driftloop.models.registry.reference_csv import read_reference_csv
from driftloop.models.registry.self_test import check_self_test
from driftloop.schemas.base import FeatureValue
from driftloop.schemas.errors import ArtifactError
from onnx import TensorProto

from tests.support.models import onnx as brought

FLOAT, INT64, STRING = brought.FLOAT, brought.INT64, brought.STRING
WHOLE = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
NUMBERS = "a,b,c,label\n" + "1,2,3,6\n4,5,6,15\n0,1,0,1\n" * 7
BOOLS = "a,b,c,label\n" + "true,false,true,2\ntrue,false,false,1\n" * 7
TEXTS = "a,b,c,label\n" + "red,blue,red,2\nblue,7,blue,0\n" * 7
EXPORTS = r"one matrix \[rows, features\], or one input \[rows, 1\] per feature, named like it"
FREE = "export it with a free first dimension"


def brought_in(data: bytes, text: str, folder: Path) -> ManifestParts:
    path = folder / "reference.csv"
    path.write_text(text, encoding="utf-8")
    return build_manifest_parts(data, read_reference_csv(path, task="regression"), task="regression")


def answers_as_labelled(data: bytes, text: str, folder: Path) -> ManifestParts:
    """Import, serve as a server does, and find the reference's labels among the answers."""
    parts = brought_in(data, text, folder)
    assert parts.reference.mean_error == pytest.approx(0.0, abs=1e-3)
    check_self_test(load(parts.fitted, data), parts.self_test)
    return parts


def ask(parts: ManifestParts, *rows: dict[str, FeatureValue]) -> list[Any]:
    return [answer.prediction for answer in load(parts.fitted, parts.fitted.data).predict(list(rows))]


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", *WHOLE])
def test_a_matrix_of_any_numbers_is_served(kind: str, tmp_path: Path) -> None:
    data = brought.sum_of_matrix(getattr(TensorProto, kind))
    parts = answers_as_labelled(data, NUMBERS, tmp_path)
    assert [(feature.name, feature.type) for feature in parts.fitted.features] == [
        ("a", "number"), ("b", "number"), ("c", "number"),
    ]  # fmt: skip
    assert ask(parts, {"a": 7, "b": 8.0, "c": True}) == [16.0]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_matrix_of_whole_numbers_names_the_feature_that_is_none(kind: str, tmp_path: Path) -> None:
    parts = answers_as_labelled(brought.sum_of_matrix(getattr(TensorProto, kind)), NUMBERS, tmp_path)
    for value in (1.5, None, "x"):
        with pytest.raises(
            FeatureError, match=f"feature b: this model takes whole numbers without null, got {value!r}"
        ):
            ask(parts, {"a": 1, "b": value, "c": 1})
    for value in (2**64, -(2**64), 1e300):
        with pytest.raises(FeatureError, match="feature b: this model takes whole numbers from"):
            ask(parts, {"a": 1, "b": value, "c": 1})


@pytest.mark.parametrize(
    "data", [brought.sum_of_matrix(INT64, (None, 1)), brought.sum_of_columns(a=(INT64, (None, 1)))]
)
def test_whole_numbers_that_no_float32_holds_reach_the_model_as_they_are(data: bytes, tmp_path: Path) -> None:
    parts = answers_as_labelled(data, "a,label\n1,1\n2,2\n", tmp_path)
    assert ask(parts, {"a": 2**24 + 1}) == [2.0**24 + 1]


def test_a_matrix_of_booleans_is_served(tmp_path: Path) -> None:
    parts = answers_as_labelled(brought.sum_of_matrix(brought.BOOL), BOOLS, tmp_path)
    assert ask(parts, {"a": True, "b": 1, "c": 0}) == [2.0]
    with pytest.raises(FeatureError, match="feature b: this model takes true and false without null, got 2"):
        ask(parts, {"a": True, "b": 2, "c": 0})


def test_a_matrix_of_text_is_served(tmp_path: Path) -> None:
    parts = answers_as_labelled(brought.sum_of_matrix(STRING), TEXTS, tmp_path)
    assert {feature.type for feature in parts.fitted.features} == {"category"}
    assert ask(parts, {"a": "red", "b": 7, "c": None}) == [1.0]


@pytest.mark.parametrize(
    "shape", [("rows", "columns"), ("N", 3), (None, None), (-1, 3), (1, 3), ("N", "N"), None], ids=str
)
@pytest.mark.parametrize("kind", [FLOAT, INT64])
def test_a_matrix_of_free_symbolic_or_unstated_sizes_is_served(
    shape: tuple[Any, ...] | None, kind: int, tmp_path: Path
) -> None:
    parts = answers_as_labelled(brought.sum_of_matrix(kind, shape), NUMBERS, tmp_path)
    assert ask(parts, *[{"a": i, "b": 1, "c": 1} for i in range(5)]) == [2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("out", [(1, 1), (1,), (None, 1)])
def test_a_batch_that_is_fixed_to_one_is_asked_row_by_row(
    out: tuple[int | None, ...], tmp_path: Path
) -> None:
    data = brought.sum_of_matrix(FLOAT, (1, 3), out=out, fixed=(1, 3))
    parts = answers_as_labelled(data, NUMBERS, tmp_path)
    assert ask(parts, *[{"a": i, "b": 1, "c": 1} for i in range(5)]) == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_outputs_that_state_one_row_do_not_matter_where_inputs_are_free(tmp_path: Path) -> None:
    answers_as_labelled(brought.sum_of_matrix(FLOAT, out=(1, 1)), NUMBERS, tmp_path)


def test_an_initializer_among_the_inputs_is_no_feature(tmp_path: Path) -> None:
    answers_as_labelled(brought.sum_of_matrix(FLOAT, with_default=True), NUMBERS, tmp_path)


@pytest.mark.parametrize("shape", [(None,), (None, 1), (None, None), (None, 1, 1), (1, 1), (1,)])
@pytest.mark.parametrize("kind", [FLOAT, INT64])
def test_one_input_per_feature_is_found_by_its_name(
    kind: int, shape: tuple[int | None, ...], tmp_path: Path
) -> None:
    data = brought.sum_of_columns(c=(kind, shape), a=(kind, shape), b=(kind, shape))
    header, _, rows = NUMBERS.partition("\n")
    parts = answers_as_labelled(data, f"{header},extra\n" + rows.replace("\n", ",9\n"), tmp_path)
    assert [feature.name for feature in parts.fitted.features] == ["c", "a", "b"]
    assert ask(parts, {"a": 1, "b": 2, "c": 3, "extra": 1}, {"a": 0, "b": 0, "c": 1}) == [6.0, 1.0]


def test_one_input_of_one_column_is_found_by_its_name_or_is_the_only_column(tmp_path: Path) -> None:
    data = brought.sum_of_matrix(FLOAT, (None, 1), name="b")
    assert answers_as_labelled(data, "a,b,label\n9,1,1\n9,2,2\n", tmp_path).fitted.features[0].name == "b"
    assert answers_as_labelled(data, "x,label\n1,1\n2,2\n", tmp_path).fitted.features[0].name == "x"


def test_a_text_reaches_the_model_as_the_csv_writes_it_however_it_is_sent(tmp_path: Path) -> None:
    """pandas writes True, and whole numbers beside missing ones as 1.0: the model has learned that."""
    data = brought.sum_of_matrix(STRING, counted=("True", "1.0", "2.50"))
    text = "a,b,c,label\n" + "True,1.0,2.50,3\nFalse,2.0,2.5,0\n" * 7
    parts = answers_as_labelled(data, text, tmp_path)
    assert parts.reference.categories["a"].counts == {"False": 7, "True": 7}
    sent: list[tuple[FeatureValue, FeatureValue, FeatureValue, float]] = [
        (True, 1, "2.50", 3.0), (1, 1.0, "2.5", 2.0), ("true", "1", None, 2.0), ("TRUE", "1.0", 7, 2.0),
        (False, 2, 2.5, 0.0), (0, 3, "x", 0.0),
    ]  # fmt: skip
    assert ask(parts, *({"a": a, "b": b, "c": c} for a, b, c, _ in sent)) == [right for *_, right in sent]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((None, 4, 3), rf"input input has 3 dimensions \(\[rows, 4, 3\].*{EXPORTS}"),
        ((None, None, 3), r"has 3 dimensions \(\[rows, \?, 3\] tensor\(float\)\)"),
        ((1, 1, 3), "has 3 dimensions"),
        ((None, 3, 8, 8), "has 4 dimensions"),
        ((3,), r"a vector of 3, .*: export it as \[rows, 3\]"),
        ((32, 3), rf"takes exactly 32 rows at once .*: {FREE}"),
        ((0, 3), rf"takes exactly 0 rows at once .*: {FREE}"),
        ((None, 4), "a matrix of 4 columns and the CSV has 3 beside the label"),
    ],
)
def test_a_matrix_of_another_shape_says_which_export_is_served(
    shape: tuple[int | None, ...], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=problem):
        brought_in(brought.sum_of_matrix(FLOAT, shape), NUMBERS, tmp_path)
    with pytest.raises(ArtifactError, match=problem.replace("float", "int64")):
        brought_in(brought.sum_of_matrix(INT64, shape), NUMBERS, tmp_path)


@pytest.mark.parametrize(
    ("ports", "problem"),
    [
        ({"a": (8, 1), "b": (8, 1)}, rf"input a takes exactly 8 rows .*: {FREE}"),
        ({"a": (8,), "b": (8,)}, "input a is a vector of 8, one row"),
        (
            {"numbers": (None, 3), "texts": (None, 1)},
            r"not all have one column \(numbers \[rows, 3\] tensor\(float\), texts \[rows, 1\] .*"
            rf"export it with {EXPORTS}",
        ),
        ({"a": (None, 3), "b": (None, 3)}, "not all have one column"),
        ({"f0": (None, 1), "f1": (None, 1)}, r"name its columns like the model's inputs \(f0, f1\)"),
    ],
)
def test_several_inputs_of_another_shape_say_which_export_is_served(
    ports: dict[str, tuple[int | None, ...]], problem: str, tmp_path: Path
) -> None:
    data = brought.sum_of_columns(**{name: (FLOAT, shape) for name, shape in ports.items()})
    with pytest.raises(ArtifactError, match=problem):
        brought_in(data, NUMBERS, tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (brought.map_input(), rf"input is a map\(string,tensor\(float\)\), and only tensors of .*{EXPORTS}"),
        (brought.sequence_input(), r"input is a seq\(tensor\(float\)\), and only tensors of float, double"),
        (brought.sum_of_matrix(TensorProto.BFLOAT16), r"is a tensor\(bfloat16\), and only tensors of"),
        (
            brought.sum_of_matrix(FLOAT, fixed=(1, 3)),
            rf"one row and not 21 at once: {FREE} from its inputs to its outputs, without a Reshape",
        ),
        (brought.sum_of_matrix(FLOAT, fixed=(1, -1)), "the model gives 1 answers to 21 rows"),
    ],
)
def test_what_cannot_be_served_says_which_export_is(data: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        brought_in(data, NUMBERS, tmp_path)


@pytest.mark.parametrize(
    ("cell", "cure"),
    [
        ("NA", "leave a cell empty where a value is missing"),
        ("n/a", "leave a cell empty where a value is missing"),
        ("NaN", "leave a cell empty where a value is missing"),
        ("?", "leave a cell empty where a value is missing"),
        ('"1,5"', "write numbers with a decimal point"),
        (" 2", "leave out the spaces around it"),
        ("two", "write the numbers that your model was trained on"),
        ("007", "write the numbers that your model was trained on"),
    ],
)
@pytest.mark.parametrize("matrix", [True, False])
def test_one_cell_of_text_among_numbers_is_named_by_column_and_row(
    cell: str, cure: str, matrix: bool, tmp_path: Path
) -> None:
    columns = brought.sum_of_columns(**dict.fromkeys("abc", (FLOAT, (None, 1))))
    text = NUMBERS + f"1,2,{cell},3\n" + NUMBERS.partition("\n")[2]
    with pytest.raises(ArtifactError) as refused:
        brought_in(brought.sum_of_matrix() if matrix else columns, text, tmp_path)
    shown = repr(cell.strip('"'))
    assert f"column c, row 23 is {shown}: {cure}" in str(refused.value)


def test_several_cells_of_text_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"column b, row 22 is 'NA' \(and 1 more\): leave a cell empty"):
        brought_in(brought.sum_of_matrix(), NUMBERS[: -len("0,1,0,1\n")] + "1,NA,1,2\n1,NA,1,2\n", tmp_path)


def test_a_row_that_the_model_cannot_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"row 23: feature b: .* whole numbers without null, got None"):
        brought_in(brought.sum_of_matrix(INT64), NUMBERS + "1,,3,4\n" + "1,1,1,3\n", tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (NUMBERS.encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        (gzip.compress(NUMBERS.encode(), mtime=0), "it is compressed with gzip"),
        (b"PK\x03\x04\x14\x00\xff", "it is a zip file .or an Excel workbook."),
        (b"a;b;label\n1;2;3\n", "are separated by ';': save it with commas"),
        (b"a\tb\tlabel\n1\t2\t3\n", r"separated by '\\t': save it with commas"),
        (b"a, label\n1,2\n", "write its name without spaces"),
        (b"a,Label\n1,2\n", "letter by letter"),
        (b"a,a,label\n1,2,3\n", "more than one column 'a'"),
    ],
)
def test_a_file_that_is_no_such_csv_is_named(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "reference.csv"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=problem):
        read_reference_csv(path, task="regression")
