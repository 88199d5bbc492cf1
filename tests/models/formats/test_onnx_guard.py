"""The guard in front of onnxruntime never accepts what the onnx package finds forbidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from driftloop.models.formats.onnx_guard import check_onnx
from driftloop.schemas.errors import ArtifactError
from google.protobuf.message import DecodeError, Message
from hypothesis import given, reject
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from tests.support.fuzz import effort
from tests.support.models import onnx as brought

ALLOWED = ("", "ai.onnx", "ai.onnx.ml")
FORBIDDEN = ("com.microsoft", "custom", "ai.onnx.training", "ai.onnx.ml ", "AI.ONNX")
GRAPH, OPSET = 7, 8


def forbidden(model: ModelProto) -> bool:
    """By reflection over the whole message, so that it shares nothing with the guard's field numbers."""
    return bool(
        model.functions
        or model.training_info
        or any(opset.domain not in ALLOWED for opset in model.opset_import)
        or any(_is_forbidden(message) for message in _inside(model.graph))
    )


def _is_forbidden(message: Message) -> bool:
    if isinstance(message, TensorProto):
        return any(entry.key == "location" for entry in message.external_data)
    return isinstance(message, NodeProto) and message.domain not in ALLOWED


def _inside(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if isinstance(value, Message) else value:
            # No operator of ai.onnx.ml has subgraphs, and onnxruntime refuses attributes it does not know.
            is_ml = isinstance(message, NodeProto) and message.domain == "ai.onnx.ml"
            if not (is_ml and isinstance(part, AttributeProto) and (part.HasField("g") or part.graphs)):
                yield from _inside(part)


# --- models -----------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn, *, evil: bool) -> TensorProto:
    made = helper.make_tensor("location", TensorProto.FLOAT, [1], [1.0])
    if evil and draw(st.booleans()):
        made.ClearField("float_data")
        made.data_location = draw(st.sampled_from([TensorProto.EXTERNAL, TensorProto.DEFAULT]))
        made.external_data.add(key="location", value="../../etc/passwd")
    return made


@st.composite
def graphs(draw: st.DrawFn, *, evil: bool, depth: int = 0) -> GraphProto:
    made = GraphProto(name="g")
    domains = st.sampled_from([*ALLOWED, *FORBIDDEN] if evil else ALLOWED)
    for _ in range(draw(st.integers(0, 3))):
        node = helper.make_node("F", ["x"], ["y"], domain=draw(domains), alpha=1.5, names=["a", "location"])
        kind = draw(st.sampled_from(["plain", "tensor", "tensors", "sparse", "graph", "graphs"]))
        if kind == "tensor":
            node.attribute.append(helper.make_attribute("t", draw(tensors(evil=evil))))
        elif kind == "tensors":
            node.attribute.append(helper.make_attribute("ts", [draw(tensors(evil=evil))]))
        elif kind == "sparse":
            node.attribute.append(helper.make_attribute("s", draw(_sparse(evil))))
        elif kind != "plain" and depth < 3 and node.domain != "ai.onnx.ml":
            inner = draw(graphs(evil=evil, depth=depth + 1))
            node.attribute.append(helper.make_attribute(kind, inner if kind == "graph" else [inner]))
        made.node.append(node)
    made.initializer.extend(draw(st.lists(tensors(evil=evil), max_size=2)))
    if draw(st.booleans()):
        made.sparse_initializer.append(draw(_sparse(evil)))
    return made


@st.composite
def _sparse(draw: st.DrawFn, evil: bool) -> SparseTensorProto:
    return SparseTensorProto(values=draw(tensors(evil=evil)), indices=draw(tensors(evil=evil)), dims=[2])


@st.composite
def models(draw: st.DrawFn, *, evil: bool = False) -> ModelProto:
    made = helper.make_model(draw(graphs(evil=evil)), ir_version=8, producer_name="location")
    del made.opset_import[:]
    for domain in draw(st.lists(st.sampled_from([*ALLOWED, *FORBIDDEN] if evil else ALLOWED), max_size=3)):
        made.opset_import.append(helper.make_opsetid(domain, 3))
    if evil and draw(st.integers(0, 5)) == 0:
        made.functions.add(name="F")
    if evil and draw(st.integers(0, 5)) == 0:
        made.training_info.add()
    return made


@st.composite
def damaged(draw: st.DrawFn, model: ModelProto) -> bytes:
    """Bytes changed, cut, repeated and inserted, or a second model appended, which merges with the first."""
    data = bytearray(model.SerializeToString())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 30)))
        what = draw(st.sampled_from(["change", "cut", "repeat", "insert", "merge"]))
        if what == "change" and start < len(data):
            data[start] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[start:end]
        elif what == "repeat":
            data[start:start] = data[start:end]
        elif what == "insert":
            data[start:start] = draw(st.binary(max_size=6))
        elif what == "merge":
            data += draw(models(evil=True)).SerializeToString()
    return bytes(data)


def parsed(data: bytes) -> ModelProto:
    try:
        return ModelProto.FromString(data)
    except DecodeError:
        reject()


# --- what must hold ---------------------------------------------------------------------------------------


@effort(200, 1)
@given(models())
def test_every_model_of_standard_operators_in_one_file_is_accepted(model: ModelProto) -> None:
    assert not forbidden(model)
    check_onnx(model.SerializeToString())


@effort(300, 1)
@given(models(evil=True))
def test_the_guard_and_the_onnx_package_find_the_same(model: ModelProto) -> None:
    if forbidden(model):
        with pytest.raises(ArtifactError):
            check_onnx(model.SerializeToString())
    else:
        check_onnx(model.SerializeToString())


@pytest.mark.slow
@effort(500, 1)
@given(st.data())
def test_damaged_bytes_never_hide_what_the_onnx_package_still_finds(data: st.DataObject) -> None:
    wrong = data.draw(damaged(data.draw(models(evil=data.draw(st.booleans())))))
    try:
        check_onnx(wrong)
    except ArtifactError:
        return
    assert not forbidden(parsed(wrong))


@pytest.mark.parametrize(("field", "part"), [
    (GRAPH, helper.make_graph([helper.make_node("Gelu", ["X"], ["z"], domain="com.microsoft")], "g", [], [])),
    (OPSET, helper.make_opsetid("com.microsoft", 1)),
])  # fmt: skip
def test_a_tag_that_only_another_parser_reads_as_a_known_field_is_refused(field: int, part: Any) -> None:
    """C++ cuts a tag to 32 bits: one of 33 bits is an unknown field here and a graph in onnxruntime."""
    body = part.SerializeToString()
    tag = bytes([0x80 | field << 3 | 2, 0x80, 0x80, 0x80, 0x10])
    hidden = tag + bytes([len(body)]) + body
    with pytest.raises(ArtifactError, match="number is out of range"):
        check_onnx(brought.identity_matrix() + hidden)


@pytest.mark.parametrize("group", [b"\x3b\x3c", b"\x0b\x0c"])
def test_groups_are_refused(group: bytes) -> None:
    with pytest.raises(ArtifactError, match="no protobuf message"):
        check_onnx(brought.identity_matrix() + group)
