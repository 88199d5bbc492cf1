"""ONNX models as people bring them, written node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
STRING, BOOL = TensorProto.STRING, TensorProto.BOOL


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
    of_maps = helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, []))
    maps = helper.make_value_info("maps", helper.make_sequence_type_proto(of_maps))
    return model([node, zipped], [tensor("X", FLOAT, None, 2)], [label, maps])


def one_node(
    operator: str,
    inputs: Sequence[str] = ("X",),
    *,
    before: Sequence[NodeProto] = (),
    width: int | None = 2,
    kind: int = FLOAT,
    attributes: Mapping[str, Any] | None = None,
    **fields: Any,
) -> bytes:
    """A matrix ``p`` as wide as the first input, by one operator after those of ``before``."""
    node = helper.make_node(operator, [*inputs], ["p"], **(attributes or {}))
    matrix = [tensor(name, kind, None, width) for name in (inputs[0], "p")]
    return model([*before, node], matrix[:1], matrix[1:], **fields)


def softmax_matrix(width: int | None = 2, kind: int = FLOAT) -> bytes:
    """Scores alone: the columns' softmax."""
    return one_node("Softmax", width=width, kind=kind, attributes={"axis": 1})


def identity_matrix(width: int = 2) -> bytes:
    """Scores alone that are no probabilities."""
    return one_node("Identity", width=width)


def sigmoid_column(*, flat: bool = False) -> bytes:
    """One probability, from one column."""
    if not flat:
        return one_node("Sigmoid", width=1)
    nodes = [helper.make_node("Sigmoid", ["X"], ["s"]), helper.make_node("Reshape", ["s", "shape"], ["p"])]
    shape = helper.make_tensor("shape", INT64, [1], [-1])
    return model(nodes, [tensor("X", FLOAT, None, 1)], [tensor("p", FLOAT, None)], initializers=[shape])


def sum_of_matrix(
    kind: int = FLOAT,
    shape: Sequence[int | str | None] | None = (None, 3),
    *,
    out: Sequence[int | None] = (None, 1),
    name: str = "input",
    fixed: Sequence[int] | None = None,
    with_default: bool = False,
    counted: Sequence[str] = ("red",),
) -> bytes:
    """A regression: the sum of a row's columns (of text: how many are ``counted`` ones).

    ``fixed``: a shape that the model makes of its input, as an export of one row does. ``with_default``: an
    initializer stands among the inputs, as old exports have it.
    """
    nodes, initializers = [], [helper.make_tensor("axes", INT64, [1], [-1])]
    last = name
    if kind == STRING:
        last = "is_counted"
        nodes.append(helper.make_node(
            "LabelEncoder", [name], [last], domain="ai.onnx.ml",
            keys_strings=list(counted), values_floats=[1.0] * len(counted), default_float=0.0,
        ))  # fmt: skip
    nodes.append(helper.make_node("Cast", [last], ["numbers"], to=DOUBLE))
    last = "numbers"
    if fixed is not None:
        last = "fixed"
        initializers.append(helper.make_tensor("shape", INT64, [len(fixed)], list(fixed)))
        nodes.append(helper.make_node("Reshape", ["numbers", "shape"], [last]))
    nodes.append(helper.make_node("ReduceSum", [last, "axes"], ["value"], keepdims=1))
    inputs = [helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))]
    if with_default:
        inputs.append(tensor("axes", INT64, 1))
    return model(nodes, inputs, [tensor("value", DOUBLE, *out)], initializers=initializers)


def sum_of_columns(**ports: tuple[int, Sequence[int | None]]) -> bytes:
    """A regression: the sum of numeric inputs, name → kind and shape."""
    nodes = [helper.make_node("Cast", [name], [f"{name}_number"], to=DOUBLE) for name in ports]
    nodes.append(helper.make_node("Sum", [f"{name}_number" for name in ports], ["value"]))
    inputs = [tensor(name, kind, *shape) for name, (kind, shape) in ports.items()]
    return model(nodes, inputs, [tensor("value", DOUBLE, None, 1)])


def map_input() -> bytes:
    """A model that takes a map, as sklearn-onnx's DictVectorizer does."""
    node = helper.make_node(
        "DictVectorizer", ["input"], ["value"], domain="ai.onnx.ml", string_vocabulary=["x", "y"]
    )
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    return model([node], [helper.make_value_info("input", kind)], [tensor("value", FLOAT, None, 2)])


def sequence_input() -> bytes:
    """A model that takes a sequence of tensors."""
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [None, 3]))
    node = helper.make_node("ConcatFromSequence", ["input"], ["value"], axis=0)
    return model([node], [helper.make_value_info("input", kind)], [tensor("value", FLOAT, None, 3)])


def named_inputs() -> bytes:
    """A regression of one named input per type: amount + 10·count + 100·flag + 1000 where colour is red."""
    nodes = [
        helper.make_node("Cast", ["count"], ["count_f"], to=FLOAT),
        helper.make_node("Cast", ["flag"], ["flag_f"], to=FLOAT),
        helper.make_node(
            "LabelEncoder", ["colour"], ["red"], domain="ai.onnx.ml", keys_strings=["red"],
            values_floats=[1.0], default_float=0.0,
        ),
        helper.make_node("Concat", ["amount", "count_f", "flag_f", "red"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["value"]),
    ]  # fmt: skip
    inputs = [
        tensor("amount", FLOAT, None, 1), tensor("count", INT64, None, 1),
        tensor("flag", BOOL, None, 1), tensor("colour", STRING, None, 1),
    ]  # fmt: skip
    weights = helper.make_tensor("weights", FLOAT, [4, 1], [1.0, 10.0, 100.0, 1000.0])
    return model(nodes, inputs, [tensor("value", FLOAT, None, 1)], initializers=[weights])
