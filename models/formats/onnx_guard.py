"""Refuse an ONNX file that holds what is not allowed, before onnxruntime sees a byte of it.

Refused: operators outside ai.onnx and ai.onnx.ml, model-local functions, tensors kept in other files, and
onnxruntime's own file format (which would bypass all of this).

Why a parser of our own: servers have onnxruntime and its protobuf library, but ONNX's message definitions
come only with the onnx package. And any second parser, protobuf's for Python included, may read a file
differently from onnxruntime's C++ one. This one reads only the fields that matter (numbers from onnx.proto),
every occurrence of them, and refuses encodings that parsers disagree on: groups, and tags beyond 32 bits,
which C++ cuts to 32 bits. The suite fuzzes it against the onnx package.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...schemas.errors import ArtifactError

_ALLOWED_DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})
_MAX_NESTING = 32

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_onnx(data: bytes) -> None:
    """Raise ArtifactError saying what is not allowed and what to do."""
    if data[4:8] == b"ORTM":
        raise ArtifactError("it is in onnxruntime's own format (.ort): export it as plain .onnx")
    # External data needs an entry with the key "location". A tree ensemble has hundreds of thousands of
    # attribute values, so its attributes are only read when that word occurs at all.
    scan = _Scan(external_possible=b"location" in data)
    graphs = 0
    for field, value in _fields(memoryview(data)):
        if field == _MODEL_FUNCTIONS:
            raise ArtifactError(
                "it defines functions of its own: inline them (onnx.inliner) and export again"
            )
        if field == _MODEL_TRAINING:
            raise ArtifactError("it holds training steps: export it for inference only")
        if field == _MODEL_OPSET:
            for inner, domain in _fields(_message(value)):
                if inner == _OPSET_DOMAIN:
                    _check_domain(bytes(_message(domain)), "an operator set")
        if field == _MODEL_GRAPH:
            graphs += 1
            scan.graph(_message(value), depth=0)
    if graphs == 0:
        raise ArtifactError("it is not an ONNX model: it holds no graph")


class _Scan:
    """Walks graphs, their subgraphs and, if external data is possible, their tensors."""

    def __init__(self, *, external_possible: bool) -> None:
        self._external_possible = external_possible

    def graph(self, graph: memoryview, depth: int) -> None:
        if depth > _MAX_NESTING:
            raise ArtifactError(f"its graphs are nested more than {_MAX_NESTING} deep")
        for field, value in _fields(graph):
            if field == _GRAPH_NODE:
                self._node(_message(value), depth)
            elif field == _GRAPH_INITIALIZER:
                self._tensor(_message(value))
            elif field == _GRAPH_SPARSE:
                self._sparse(_message(value))

    def _node(self, node: memoryview, depth: int) -> None:
        attributes: list[memoryview] = []
        domain, op_type = b"", b""
        for field, value in _fields(node):
            if field == _NODE_DOMAIN:
                domain = bytes(_message(value))
            elif field == _NODE_OP_TYPE:
                op_type = bytes(_message(value))
            elif field == _NODE_ATTRIBUTE:
                attributes.append(_message(value))
        _check_domain(domain, f"operator {op_type.decode(errors='replace')}")
        # No operator of ai.onnx.ml has subgraphs, and onnxruntime refuses attributes that it does not know.
        if domain != b"ai.onnx.ml" or self._external_possible:
            for attribute in attributes:
                self._attribute(attribute, depth)

    def _attribute(self, attribute: memoryview, depth: int) -> None:
        for field, value in _fields(attribute):
            if field in _ATTRIBUTE_GRAPHS:
                self.graph(_message(value), depth + 1)
            elif field in _ATTRIBUTE_TENSORS:
                self._tensor(_message(value))
            elif field in _ATTRIBUTE_SPARSE:
                self._sparse(_message(value))

    def _sparse(self, sparse: memoryview) -> None:
        for field, value in _fields(sparse):
            if field in _SPARSE_TENSORS:
                self._tensor(_message(value))

    def _tensor(self, tensor: memoryview) -> None:
        if not self._external_possible:
            return
        for field, value in _fields(tensor):
            if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
                raise ArtifactError(
                    "it keeps tensors in other files: save it as one file "
                    "(onnx.save_model(model, path, save_as_external_data=False))"
                )


def _check_domain(domain: bytes, what: str) -> None:
    if domain not in _ALLOWED_DOMAINS:
        name = domain.decode(errors="replace")
        raise ArtifactError(
            f"{what} is of domain {name!r}: only standard operators (ai.onnx, ai.onnx.ml) are allowed"
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield a protobuf message's fields: (number, integer or bytes). Raises ArtifactError if it is broken."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        if not 8 <= tag < 2**32:
            raise ArtifactError("it is not an ONNX model: a field's number is out of range")
        field, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, position = _varint(message, position)
            if position + length > end:
                raise ArtifactError("it is not an ONNX model: it ends in the middle of a field")
            yield field, message[position : position + length]
            position += length
        elif wire == _VARINT:
            value, position = _varint(message, position)
            yield field, value
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
            if position > end:
                raise ArtifactError("it is not an ONNX model: it ends in the middle of a field")
            yield field, 0
        else:
            raise ArtifactError("it is not an ONNX model: it is no protobuf message")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ArtifactError("it is not an ONNX model: it ends in the middle of a number")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ArtifactError("it is not an ONNX model: a number stands where a message should")
    return value
