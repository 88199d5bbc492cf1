"""A model whose classes are stated in another order than its own is refused, and no other model is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from driftloop.models.formats.loaders import load
from driftloop.models.registry.class_order import better_order
from driftloop.models.registry.import_model import build_manifest_parts
from driftloop.models.registry.reference_csv import ReferenceTable
from driftloop.schemas.errors import ArtifactError
from onnx import helper
from sklearn.linear_model import LogisticRegression

from tests.support.models import onnx as brought
from tests.support.models.answers import best_scored

AB = ("late", "on_time")
ABC = ("a", "b", "c")


def numbered(width: int, *, scores: bool = True, labels: bool = True) -> bytes:
    """The number of the largest column as a label, the columns' softmax as scores, or one of both."""
    nodes = [
        helper.make_node("ArgMax", ["X"], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["X"], ["scores"], axis=1),
    ]
    outputs = [
        brought.tensor("label", brought.INT64, None),
        brought.tensor("scores", brought.FLOAT, None, width),
    ]
    chosen = [place for place, wanted in enumerate((labels, scores)) if wanted]
    return brought.model(
        [nodes[place] for place in chosen],
        [brought.tensor("X", brought.FLOAT, None, width)],
        [outputs[place] for place in chosen],
    )


def table(names: Sequence[str], count: int = 500, *, only: Sequence[str] | None = None) -> ReferenceTable:
    """Rows whose largest column, of as many as there are names, tells the label."""
    points = np.random.default_rng(1).normal(size=(count, len(names)))
    labels = [names[place] for place in points.argmax(axis=1).tolist()]
    kept = [place for place, label in enumerate(labels) if only is None or label in only]
    rows = tuple({f"x{n}": value for n, value in enumerate(points[place].tolist())} for place in kept)
    return ReferenceTable(rows, tuple(labels[place] for place in kept), ({},) * len(kept))


KINDS = [
    pytest.param(True, True, id="label and scores"),
    pytest.param(True, False, id="label alone"),
    pytest.param(False, True, id="scores alone"),
]


@pytest.mark.parametrize(("labels", "scores"), KINDS)
def test_two_classes_in_the_other_order_are_refused(labels: bool, scores: bool) -> None:
    data, given = numbered(2, labels=labels, scores=scores), table(AB)
    with pytest.raises(ArtifactError, match=r"right on 0 of 500 rows if its classes are .*on 500 in another"):
        build_manifest_parts(data, given, task="classification", classes=AB[::-1])
    parts = build_manifest_parts(data, given, task="classification", classes=AB)
    assert parts.reference.accuracy == 1.0
    assert parts.fitted.classes == AB


@pytest.mark.parametrize(("labels", "scores"), KINDS)
@pytest.mark.parametrize("stated", list(itertools.permutations(ABC)))
def test_three_classes_in_any_other_order_are_refused_with_the_right_one(
    stated: tuple[str, ...], labels: bool, scores: bool
) -> None:
    data, given = numbered(3, labels=labels, scores=scores), table(ABC)
    if stated == ABC:
        assert build_manifest_parts(data, given, task="classification", classes=stated).fitted.classes == ABC
        return
    with pytest.raises(ArtifactError, match=r"state the classes as \['a', 'b', 'c'\]$"):
        build_manifest_parts(data, given, task="classification", classes=stated)


@pytest.mark.parametrize("names", [("false", "true"), ("0", "1"), ("False", "True"), ("0.0", "1.0")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_number_that_names_a_class_needs_no_order(names: tuple[str, str], turned: bool) -> None:
    """Nought is false and one is true, whichever is stated first."""
    data, given = numbered(2), table(names)
    stated = names[::-1] if turned else names
    parts = build_manifest_parts(data, given, task="classification", classes=stated)
    answers = load(parts.fitted, data).predict(given.rows)
    assert [answer.prediction for answer in answers] == list(given.labels)
    assert [best_scored(answer) for answer in answers] == list(given.labels)


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("names", [("late", "on_time"), ("0", "1"), ("False", "True")])
def test_a_classifier_of_scikit_learn_trained_on_numbers_is_refused_or_right(
    names: tuple[str, str], zipmap: bool
) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    types_of = pytest.importorskip("skl2onnx.common.data_types")
    given = table(names)
    x = np.array([list(row.values()) for row in given.rows], dtype=np.float32)
    y = np.array([names.index(str(label)) for label in given.labels])
    model = LogisticRegression().fit(x, y)
    try:
        exported = skl2onnx.convert_sklearn(
            model,
            initial_types=[("X", types_of.FloatTensorType([None, 2]))],
            options={id(model): {"zipmap": zipmap}},
            target_opset=15,
        )
    except (TypeError, ValueError) as error:
        pytest.skip(f"this skl2onnx cannot export it with this protobuf: {str(error)[:60]}")
    data: bytes = exported.SerializeToString()
    for stated in (names, names[::-1]):
        if stated == ("on_time", "late"):
            with pytest.raises(ArtifactError, match=r"state the classes as \['late', 'on_time'\]"):
                build_manifest_parts(data, given, task="classification", classes=stated)
            continue
        parts = build_manifest_parts(data, given, task="classification", classes=stated)
        assert (parts.reference.accuracy or 0) > 0.95
        for answer in load(parts.fitted, data).predict(given.rows):
            assert best_scored(answer) == answer.prediction


@pytest.mark.parametrize("labels", [["a", "b"], [0, 1]])
def test_a_model_that_names_its_classes_and_answers_the_opposite_is_refused(
    labels: list[str] | list[int],
) -> None:
    names = tuple(map(str, labels))
    with pytest.raises(ArtifactError, match=r"right on 0 of 500 rows, .* it names its classes itself"):
        build_manifest_parts(
            brought.linear_classifier(labels), table(names[::-1]), task="classification", classes=names
        )


@pytest.mark.parametrize("spelled", [("Late", "ON_TIME"), (" late", "on_time ")])
def test_labels_of_the_reference_are_read_by_the_classes(spelled: tuple[str, str]) -> None:
    parts = build_manifest_parts(numbered(2), table(spelled), task="classification", classes=AB)
    assert parts.reference.accuracy == 1.0


def test_a_class_that_no_row_has_leaves_the_order_open_unless_hardly_a_row_is_right() -> None:
    one = table(AB, only=("late",))
    assert build_manifest_parts(numbered(2), one, task="classification", classes=AB).reference.accuracy == 1.0
    with pytest.raises(ArtifactError, match=r"state the classes as .*or give rows of every class"):
        build_manifest_parts(numbered(2), one, task="classification", classes=AB[::-1])
    two = table(ABC, only=("a", "b"))
    assert build_manifest_parts(numbered(3), two, task="classification", classes=ABC).fitted.classes == ABC
    for stated in (("b", "a", "c"), ("a", "c", "b"), ("c", "b", "a")):
        with pytest.raises(ArtifactError, match=r"state the classes as \['a', 'b', 'c'\]"):
            build_manifest_parts(numbered(3), two, task="classification", classes=stated)


def drawn(shares: Sequence[Sequence[float]], rows: Sequence[int], seed: int) -> tuple[list[str], list[str]]:
    """Answers and labels of ``rows`` per class, answered with these shares."""
    rng = np.random.default_rng(seed)
    names = ABC[: len(shares)]
    labels = [name for name, count in zip(names, rows, strict=True) for _ in range(count)]
    answers = [
        str(answer)
        for of_class, count in zip(shares, rows, strict=True)
        for answer in rng.choice(names, size=count, p=of_class)
    ]
    return answers, labels


@pytest.mark.parametrize(
    ("shares", "rows"),
    [
        pytest.param(
            [[0.3, 0.7], [0.05, 0.95]], [480, 20], id="a rare class, found at any price: 33 % right"
        ),
        pytest.param([[0.45, 0.55], [0.3, 0.7]], [450, 50], id="weak and cautious: 48 % right"),
        pytest.param([[0.98, 0.02], [0.7, 0.3]], [480, 20], id="a rare class that is rarely found"),
        pytest.param([[0.4, 0.6], [0.5, 0.5]], [500, 0], id="only one class among the rows"),
        pytest.param([[0.1, 0.9], [0.5, 0.5]], [500, 0], id="only one class, rarely found"),
        pytest.param([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]], [200, 200, 200], id="weak"),
        pytest.param(
            [[0.34, 0.33, 0.33], [0.33, 0.33, 0.34], [0.3, 0.3, 0.4]], [50, 50, 400], id="near chance"
        ),
        pytest.param([[0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.1, 0.7, 0.2]], [100, 100, 100], id="mostly b"),
        pytest.param([[0.0, 1.0], [0.0, 1.0]], [50, 50], id="always the same answer"),
    ],
)
def test_a_model_in_the_right_order_is_not_refused_for_being_wrong_often(
    shares: list[list[float]], rows: list[int]
) -> None:
    names = ABC[: len(shares)]
    for seed in range(50):
        answers, labels = drawn(shares, rows, seed)
        assert better_order(names, answers, labels) is None, seed


@pytest.mark.parametrize("accuracy", [0.7, 0.8, 0.9])
@pytest.mark.parametrize("rows", [(250, 250), (490, 60)])
def test_a_middling_model_in_the_wrong_order_is_refused(accuracy: float, rows: tuple[int, int]) -> None:
    for seed in range(20):
        answers, labels = drawn([[1 - accuracy, accuracy], [accuracy, 1 - accuracy]], rows, seed)
        better = better_order(("a", "b"), answers, labels)
        assert better is not None, seed
        assert better.classes == ("b", "a")
        assert better.right > better.right_as_stated


def test_a_few_rows_are_enough_where_all_of_them_are_wrong() -> None:
    assert better_order(("a", "b"), ["b", "b", "a", "a"], ["a", "a", "b", "b"]) is not None
    assert better_order(("a", "b"), ["b", "a"], ["a", "b"]) is None


def test_many_classes_are_put_in_order() -> None:
    names = tuple(f"c{number:03d}" for number in range(200))
    rng = np.random.default_rng(3)
    turned = rng.permutation(200)
    labels = [names[number % 200] for number in range(2_000)]
    answers = [names[turned[names.index(label)]] for label in labels]
    better = better_order(names, answers, labels)
    assert better is not None
    assert better.right == 2_000
    assert [better.classes[names.index(answer)] for answer in answers] == labels
