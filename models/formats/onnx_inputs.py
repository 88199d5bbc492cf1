"""What a model's inputs take, and how rows become them; or which export of the model can be served.

Served are one matrix [rows, features] (of float, double, float16, whole numbers, bool or text), and one input
per feature, [rows] or [rows, 1], named like it. A first dimension that is fixed to 1 is served row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...schemas.base import FeatureValue, class_name
from ...schemas.errors import ArtifactError
from ...schemas.serving import FeatureSpec
from ...schemas.values.feature_values import KnownValues
from .features import FeatureEncoder, FeatureError, Row
from .onnx_session import BOOL_TENSOR, FLOAT_TENSORS, TEXT_TENSOR, WHOLE_TENSORS, AnyArray, Port

SERVED_EXPORTS = "one matrix [rows, features], or one input [rows, 1] per feature, named like it"
_FREE = "with a free first dimension (torch.onnx.export: dynamic_axes; skl2onnx: FloatTensorType([None, n]))"
_KINDS = (*FLOAT_TENSORS, *WHOLE_TENSORS, BOOL_TENSOR, TEXT_TENSOR)
_HALF = float(np.finfo(np.float16).max)

Feed = Callable[[Sequence[Row]], dict[str, AnyArray]]
_Column = Callable[[Sequence[FeatureValue]], AnyArray]


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """A model's inputs: a ``matrix`` of all features, or ``columns``, each of one feature.

    ``one_row``: only one row can be asked at a time.
    """

    matrix: Port | None
    columns: tuple[Port, ...]
    one_row: bool

    @property
    def width(self) -> int | None:
        """How many features the matrix has; None: as many as are stated."""
        return self.matrix.shape[1] if self.matrix is not None and len(self.matrix.shape) > 1 else None


def read_inputs(ports: Sequence[Port]) -> ModelInputs:
    """Raises ArtifactError naming the input that is not served, and which export is."""
    for port in ports:
        _check_kind(port)
        _check_rows(port)
        _check_rank(port)
    one_row = any(port.shape[:1] == (1,) for port in ports)
    if len(ports) == 1 and len(ports[0].shape) in (0, 2):  # 0: it states no shape
        return ModelInputs(ports[0], (), one_row)
    if any(_width(port) not in (1, None) for port in ports):
        shown = ", ".join(f"{port.name} {_shown(port)}" for port in ports)
        raise ArtifactError(
            f"it takes several inputs and not all have one column ({shown}), so which feature goes where "
            f"cannot be said: export it with {SERVED_EXPORTS}"
        )
    return ModelInputs(None, tuple(ports), one_row)


def feed_of(inputs: ModelInputs, features: Sequence[FeatureSpec]) -> Feed:
    """Return what makes a model's inputs of rows. Raises ArtifactError if the features are others.

    The feed raises FeatureError for a value that the model does not take.
    """
    if inputs.matrix is not None:
        return _matrix_feed(inputs.matrix, inputs.width, features)
    return _named_feed(inputs.columns, features)


def _check_kind(port: Port) -> None:
    if port.kind in _KINDS:
        return
    names = ", ".join(kind.removeprefix("tensor(").removesuffix(")") for kind in _KINDS)
    raise ArtifactError(
        f"input {port.name} is a {port.kind}, and only tensors of {names} are served: export it with "
        f"{SERVED_EXPORTS}"
    )


def _check_rows(port: Port) -> None:
    rows = port.shape[0] if port.shape else None
    if rows in (1, None):
        return
    if len(port.shape) == 1:
        raise ArtifactError(
            f"input {port.name} is a vector of {rows}, one row without a dimension for rows: export it as "
            f"[rows, {rows}], {_FREE}"
        )
    raise ArtifactError(
        f"input {port.name} takes exactly {rows} rows at once ({_shown(port)}), and requests come one "
        f"by one: export it {_FREE}"
    )


def _check_rank(port: Port) -> None:
    if len(port.shape) > 2 and any(size != 1 for size in port.shape[1:]):
        raise ArtifactError(
            f"input {port.name} has {len(port.shape)} dimensions ({_shown(port)}), and rows of features have "
            f"two: export it with {SERVED_EXPORTS} (a Reshape in the model can make the rest of it)"
        )


def _width(port: Port) -> int | None:
    return port.shape[1] if len(port.shape) > 1 else 1


def _shown(port: Port) -> str:
    free = ("rows", *"?" * len(port.shape))
    sizes = [name if size is None else str(size) for name, size in zip(free, port.shape, strict=False)]
    return f"[{', '.join(sizes)}] {port.kind}"


def _matrix_feed(port: Port, width: int | None, features: Sequence[FeatureSpec]) -> Feed:
    if width is not None and width != len(features):
        raise ArtifactError(f"it takes {width} features, and {len(features)} are stated")
    name, kind = port.name, port.kind
    if kind in FLOAT_TENSORS:
        encode = _float_encoder(features, kind)
        return lambda rows: {name: encode(rows)}
    columns = [(feature.name, _column_feed(feature, kind)) for feature in features]
    return lambda rows: {
        name: np.stack([column([row.get(known) for row in rows]) for known, column in columns], axis=1)
    }


def _float_encoder(features: Sequence[FeatureSpec], kind: str) -> Callable[[Sequence[Row]], AnyArray]:
    encode = FeatureEncoder(features).encode
    if kind == "tensor(float)":
        return encode
    if kind == "tensor(double)":
        return lambda rows: encode(rows).astype(np.float64)
    # As beyond float32, a number that is too large becomes the largest.
    return lambda rows: np.clip(encode(rows), -_HALF, _HALF).astype(np.float16)


def _named_feed(ports: Sequence[Port], stated: Sequence[FeatureSpec]) -> Feed:
    features = {feature.name: feature for feature in stated}
    names = {port.name for port in ports}
    if names != set(features):
        missing, extra = sorted(names - set(features)), sorted(set(features) - names)
        raise ArtifactError(
            f"its inputs are not the stated features (not stated: {missing}; not taken: {extra})"
        )
    columns = [
        (port.name, _column_feed(features[port.name], port.kind), (-1, *(1,) * ((len(port.shape) or 2) - 1)))
        for port in ports
    ]
    return lambda rows: {
        name: column([row.get(name) for row in rows]).reshape(shape) for name, column, shape in columns
    }


def _column_feed(feature: FeatureSpec, kind: str) -> _Column:
    name = feature.name
    if kind == TEXT_TENSOR:
        text = _text_of(KnownValues(feature.categories or ()))
        return lambda values: np.array([text(value) for value in values], dtype=object)
    if kind in FLOAT_TENSORS:
        encode = _float_encoder([feature], kind)
        return lambda values: encode([{name: value} for value in values])
    if kind == BOOL_TENSOR:
        return lambda values: np.array([_true(name, value) for value in values], dtype=np.bool_)
    dtype: Any = WHOLE_TENSORS[kind]
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return lambda values: np.array([_whole(name, value, least, most) for value in values], dtype=dtype)


def _text_of(known: KnownValues) -> Callable[[FeatureValue], str]:
    def text(value: FeatureValue) -> str:
        return known.name_of("" if value is None else class_name(value))

    return text


def _whole(name: str, value: FeatureValue, least: int, most: int) -> int:
    if isinstance(value, str) or value is None or value != value // 1:
        raise FeatureError(f"feature {name}: this model takes whole numbers without null, got {value!r}")
    if not least <= value <= most:
        raise FeatureError(
            f"feature {name}: this model takes whole numbers from {least} to {most}, got {value!r}"
        )
    return int(value)


def _true(name: str, value: FeatureValue) -> bool:
    if isinstance(value, str) or value not in (0, 1):
        raise FeatureError(f"feature {name}: this model takes true and false without null, got {value!r}")
    return bool(value)
