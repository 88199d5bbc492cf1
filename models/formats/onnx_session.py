"""A restricted onnxruntime session: checked bytes, one thread, CPU, standard operators only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...schemas.errors import ArtifactError
from .onnx_guard import check_onnx

AnyArray = NDArray[Any]

FLOAT_TENSORS = ("tensor(float)", "tensor(double)", "tensor(float16)")
WHOLE_TENSORS = {
    f"tensor({kind})": getattr(np, kind)
    for kind in ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
}
TEXT_TENSOR, BOOL_TENSOR = "tensor(string)", "tensor(bool)"
LABEL_TENSORS = frozenset({*WHOLE_TENSORS, TEXT_TENSOR, BOOL_TENSOR})
_ERRORS_ONLY = 3  # onnxruntime's log level; its warnings about unused initializers do not help a server


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: ``kind`` as onnxruntime names it, e.g. ``tensor(float)``; free sizes are None.

    No ``shape``: it states none.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]


class OnnxSession:
    """A loaded graph. ``run`` may be called from many threads at once."""

    def __init__(self, data: bytes) -> None:
        """Raise ArtifactError if the bytes are not a model that may run here."""
        check_onnx(data)
        runtime = cast("Any", onnxruntime)  # it carries no types
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ArtifactError(f"onnxruntime cannot load it: {error}") from error
        self.inputs = [_port(item) for item in self._session.get_inputs()]
        self.outputs = [_port(item) for item in self._session.get_outputs()]
        if not self.inputs:
            raise ArtifactError("it takes no inputs")

    def run(self, outputs: Sequence[str], feed: Mapping[str, AnyArray]) -> list[Any]:
        """The named outputs, in their order."""
        return cast("list[Any]", self._session.run(outputs, feed))

    def label_output(self) -> str | None:
        return next((port.name for port in self.outputs if port.kind in LABEL_TENSORS), None)

    def has_text_labels(self) -> bool:
        label = self.label_output()
        return any(port.name == label and port.kind == TEXT_TENSOR for port in self.outputs)

    def number_output(self) -> str | None:
        return next((port.name for port in self.outputs if port.kind in FLOAT_TENSORS), None)

    def score_output(self) -> str | None:
        maps = (port.name for port in self.outputs if port.kind.startswith("seq(map("))
        return next(maps, None) or self.number_output()


def _port(item: Any) -> Port:
    sizes = cast("Sequence[object]", item.shape or ())
    return Port(str(item.name), str(item.type), tuple(s if isinstance(s, int) else None for s in sizes))
