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

FLOAT_TENSORS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
WHOLE_TENSORS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
LABEL_TENSORS = frozenset({*WHOLE_TENSORS, "tensor(string)", "tensor(bool)"})
_ERRORS_ONLY = 3  # onnxruntime's log level; its warnings about unused initializers do not help a server


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: ``kind`` as onnxruntime names it, e.g. ``tensor(float)``; free sizes are None."""

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

    def takes_matrix(self) -> bool:
        """Whether its one input is a float matrix, rows × features."""
        first = self.inputs[0]
        return len(self.inputs) == 1 and first.kind in FLOAT_TENSORS and len(first.shape) == 2

    def label_output(self) -> str | None:
        return next((port.name for port in self.outputs if port.kind in LABEL_TENSORS), None)

    def number_output(self) -> str | None:
        return next((port.name for port in self.outputs if port.kind in FLOAT_TENSORS), None)

    def score_output(self) -> str | None:
        maps = (port.name for port in self.outputs if port.kind.startswith("seq(map("))
        return next(maps, None) or self.number_output()


def _port(item: Any) -> Port:
    sizes = cast("Sequence[object]", item.shape or ())
    return Port(str(item.name), str(item.type), tuple(s if isinstance(s, int) else None for s in sizes))
