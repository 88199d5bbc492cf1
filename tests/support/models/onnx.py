"""ONNX models as people bring them, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    *,
    initializers: Sequence[TensorProto] = (),
    domains: Sequence[str] = ("", "ai.onnx.ml"),
    **fields: Any,
) -> bytes:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializer=list(initializers))
    opsets = [helper.make_opsetid(domain, {"": 15, "ai.onnx.ml": 3}.get(domain, 1)) for domain in domains]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, **fields)
    data: bytes = made.SerializeToString()
    return data


def tensor(name: str, kind: int, *shape: int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def linear_classifier(
    labels: Sequence[str] | Sequence[int], *, zipmap: bool = False, reverse: bool = False
) -> bytes:
    """Two columns; the first class wins where the first is larger. ``reverse`` swaps the classes' columns."""
    names = list(reversed(labels)) if reverse else list(labels)
    weights = [-2.0, 2.0, 2.0, -2.0] if reverse else [2.0, -2.0, -2.0, 2.0]
    kind = "strings" if isinstance(names[0], str) else "int64s" if zipmap else "ints"
    attribute = {"classlabels_strings" if kind == "strings" else "classlabels_ints": names}
    node = helper.make_node(
        "LinearClassifier", ["X"], ["label", "scores"], domain="ai.onnx.ml", post_transform="SOFTMAX",
        coefficients=weights, intercepts=[0.0, 0.0], multi_class=1, **attribute,
    )  # fmt: skip
    label = tensor("label", STRING if kind == "strings" else INT64, None)
    if not zipmap:
        return model([node], [tensor("X", FLOAT, None, 2)], [label, tensor("scores", FLOAT, None, 2)])
    zipped = helper.make_node(
        "ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", **{f"classlabels_{kind}": names}
    )
    key = STRING if kind == "strings" else INT64
    maps = helper.make_value_info(
        "maps",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, []))
        ),
    )
    return model([node, zipped], [tensor("X", FLOAT, None, 2)], [label, maps])


def softmax_matrix(width: int | None = 2, kind: int = FLOAT) -> bytes:
    """Scores alone: the columns' softmax."""
    return model(
        [helper.make_node("Softmax", ["X"], ["p"], axis=1)],
        [tensor("X", kind, None, width)],
        [tensor("p", kind, None, width)],
    )


def identity_matrix(width: int = 2) -> bytes:
    """Scores alone that are no probabilities."""
    return model(
        [helper.make_node("Identity", ["X"], ["y"])],
        [tensor("X", FLOAT, None, width)],
        [tensor("y", FLOAT, None, width)],
    )


def sigmoid_column(*, flat: bool = False) -> bytes:
    """One probability, from one column."""
    nodes = [helper.make_node("Sigmoid", ["X"], ["s"])]
    if flat:
        nodes.append(helper.make_node("Reshape", ["s", "shape"], ["p"]))
    else:
        nodes.append(helper.make_node("Identity", ["s"], ["p"]))
    shape = helper.make_tensor("shape", INT64, [1], [-1])
    out = tensor("p", FLOAT, None) if flat else tensor("p", FLOAT, None, 1)
    return model(nodes, [tensor("X", FLOAT, None, 1)], [out], initializers=[shape] if flat else [])


def named_inputs() -> bytes:
    """A regression of one named input per type: amount + 10·count + 100·flag + 1000 where colour is red."""
    nodes = [
        helper.make_node("Cast", ["count"], ["count_f"], to=FLOAT),
        helper.make_node("Cast", ["flag"], ["flag_f"], to=FLOAT),
        helper.make_node(
            "LabelEncoder",
            ["colour"],
            ["red"],
            domain="ai.onnx.ml",
            keys_strings=["red"],
            values_floats=[1.0],
            default_float=0.0,
        ),
        helper.make_node("Concat", ["amount", "count_f", "flag_f", "red"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["value"]),
    ]
    inputs = [
        tensor("amount", FLOAT, None, 1), tensor("count", INT64, None, 1),
        tensor("flag", BOOL, None, 1), tensor("colour", STRING, None, 1),
    ]  # fmt: skip
    weights = helper.make_tensor("weights", FLOAT, [4, 1], [1.0, 10.0, 100.0, 1000.0])
    return model(nodes, inputs, [tensor("value", FLOAT, None, 1)], initializers=[weights])
