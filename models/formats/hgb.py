"""scikit-learn's histogram gradient boosting, written as an ONNX tree ensemble.

The graph is written here, node by node, from the fitted trees, because converters round a tree's float64
thresholds to float32 either way: rows that lie exactly on one would then go the other way. Inputs are float32
already at fit, so a threshold rounded *down* to float32 sends every float32 value where scikit-learn does.

Scores only: ``probabilities`` (rows, classes), or ``value`` (rows, 1) for regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from ...schemas.serving import FeatureSpec, Task
from ...schemas.spec.model import HistGradientBoosting
from .features import FeatureEncoder, Matrix, Row
from .fitted import Fitted, classes_present

# Old enough for every onnxruntime that the project allows, and for the loaders of other languages.
_IR_VERSION = 8
_OPSETS = {"": 15, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class HgbLearner:
    """Learns trees; missing values and unseen categories take the branch that helped at fit."""

    spec: HistGradientBoosting

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
        inputs = _without_empty_columns(FeatureEncoder(features).encode(rows))
        if task == "regression":
            regressor = HistGradientBoostingRegressor(**self._settings(seed))
            regressor.fit(inputs, np.asarray(labels, dtype=np.float64))
            tail = _Tail([helper.make_node("Identity", ["raw"], ["value"])], "value", 1)
            return Fitted("onnx", _graph(_trees(regressor), tail, len(features)), features, None, task)
        kept = classes_present(labels, classes)
        targets = np.array([kept.index(str(label)) for label in labels], dtype=np.int64)
        classifier = HistGradientBoostingClassifier(**self._settings(seed))
        classifier.fit(inputs, targets)
        data = _graph(_trees(classifier), _probability_tail(len(kept)), len(features))
        return Fitted("onnx", data, features, kept, task)

    def _settings(self, seed: int) -> dict[str, Any]:
        # Early stopping would hold out random rows, which time-ordered rows leak into; max_iter is the limit.
        given = self.spec.model_dump(exclude={"kind"})
        return {**given, "early_stopping": False, "random_state": seed}


def _without_empty_columns(inputs: Matrix) -> Matrix:
    """Columns of nulls only as zeros: scikit-learn cannot bin them, and no tree splits on a constant."""
    empty = np.isnan(inputs).all(axis=0)
    return np.where(empty, np.float32(0), inputs) if empty.any() else inputs


@dataclass(frozen=True, slots=True)
class _Trees:
    """A fitted ensemble: ``trees[i]`` adds to output ``targets[i]``."""

    base: tuple[float, ...]
    trees: list[NDArray[np.void]]
    targets: list[int]


def _trees(model: HistGradientBoostingClassifier | HistGradientBoostingRegressor) -> _Trees:
    # Private attributes, because scikit-learn offers no other view of its trees; a test compares answers.
    fitted = cast("Any", model)
    base = np.asarray(fitted._baseline_prediction, dtype=np.float64).ravel()
    found = [(target, tree.nodes) for trees in fitted._predictors for target, tree in enumerate(trees)]
    return _Trees(tuple(base.tolist()), [nodes for _, nodes in found], [target for target, _ in found])


class _Tail(NamedTuple):
    """The nodes behind the trees, and the graph's output: its name and number of columns."""

    nodes: list[NodeProto]
    output: str
    width: int


def _graph(trees: _Trees, tail: _Tail, features: int) -> bytes:
    graph = helper.make_graph(
        [_ensemble(trees), *tail.nodes],
        "hgb",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info(tail.output, TensorProto.FLOAT, [None, tail.width])],
        initializer=[helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])] if tail.width == 2 else [],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, producer_name="driftloop")
    model.ir_version = _IR_VERSION
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _probability_tail(classes: int) -> _Tail:
    if classes > 2:
        softmax = helper.make_node("Softmax", ["raw"], ["probabilities"], axis=1)
        return _Tail([softmax], "probabilities", classes)
    nodes = [
        helper.make_node("Sigmoid", ["raw"], ["positive"]),
        helper.make_node("Sub", ["one", "positive"], ["negative"]),
        helper.make_node("Concat", ["negative", "positive"], ["probabilities"], axis=1),
    ]
    return _Tail(nodes, "probabilities", 2)


def _ensemble(trees: _Trees) -> NodeProto:
    nodes = np.concatenate(trees.trees)
    sizes = [len(tree) for tree in trees.trees]
    tree_ids = np.repeat(np.arange(len(sizes)), sizes)
    node_ids = np.concatenate([np.arange(size) for size in sizes])
    leaf = nodes["is_leaf"].astype(bool)
    leaf_targets = np.repeat(np.array(trees.targets), sizes)[leaf]
    modes = ["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf.tolist()]
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["raw"],
        domain="ai.onnx.ml",
        n_targets=len(trees.base),
        base_values=list(trees.base),
        nodes_treeids=tree_ids.tolist(),
        nodes_nodeids=node_ids.tolist(),
        nodes_modes=modes,
        nodes_featureids=np.where(leaf, 0, nodes["feature_idx"]).tolist(),
        nodes_values=np.where(leaf, np.float32(0), _rounded_down(nodes["num_threshold"])).tolist(),
        nodes_truenodeids=np.where(leaf, 0, nodes["left"]).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, nodes["right"]).tolist(),
        nodes_missing_value_tracks_true=np.where(leaf, 0, nodes["missing_go_to_left"]).tolist(),
        target_treeids=tree_ids[leaf].tolist(),
        target_nodeids=node_ids[leaf].tolist(),
        target_ids=leaf_targets.tolist(),
        target_weights=nodes["value"][leaf].tolist(),
    )


def _rounded_down(thresholds: NDArray[np.float64]) -> Matrix:
    """The largest float32 not above each threshold."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
