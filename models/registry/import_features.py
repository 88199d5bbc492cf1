"""The features of a model that is imported: what its inputs take, beside the columns of the reference table.

What does not fit is named by column and row, with what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...schemas.base import FeatureValue
from ...schemas.errors import ArtifactError
from ...schemas.serving import FeatureSpec, FeatureType
from ...schemas.spec.model import Feature, ModelSpec
from ...schemas.values.text import TRUE_FALSE, number_of
from ..formats.features import Row, infer_features
from ..formats.onnx_inputs import ModelInputs
from ..formats.onnx_session import BOOL_TENSOR, TEXT_TENSOR, Port
from .csv_cures import number_cure
from .reference_csv import FIRST_ROW


def features_of(inputs: ModelInputs, rows: Sequence[Row]) -> tuple[FeatureSpec, ...]:
    """The features in the order in which the model takes them. Raises ArtifactError."""
    port, names = inputs.matrix, list(rows[0])
    if port is None:
        return _columns_features(inputs.columns, rows)
    if inputs.width == 1 and len(names) > 1 and port.name in names:
        return _columns_features((port,), rows)
    if inputs.width is not None and inputs.width != len(names):
        raise ArtifactError(
            f"the model takes a matrix of {inputs.width} columns and the CSV has {len(names)} beside the "
            f"label ({', '.join(names)}): leave only the model's features, in its order"
        )
    features = _inferred(rows, names, text=port.kind == TEXT_TENSOR)
    texts = [feature.name for feature in features if feature.type == "category"]
    if texts and port.kind != TEXT_TENSOR:
        raise ArtifactError(
            f"the model takes one matrix of numbers, and {', '.join(texts)} hold text: "
            f"{_first_text(rows, texts[0], port)}. Or export it with one named input per feature"
        )
    return features


def text_columns(inputs: ModelInputs, columns: Iterable[str]) -> frozenset[str]:
    """Return which columns the model takes as text: it was trained on them as they are written."""
    if inputs.matrix is None:
        return frozenset(port.name for port in inputs.columns if port.kind == TEXT_TENSOR)
    return frozenset(columns) if inputs.matrix.kind == TEXT_TENSOR else frozenset()


def _columns_features(ports: Sequence[Port], rows: Sequence[Row]) -> tuple[FeatureSpec, ...]:
    missing = [port.name for port in ports if port.name not in rows[0]]
    if missing:
        raise ArtifactError(
            f"the model takes {', '.join(missing)}, which the CSV has no column for: name its columns like "
            f"the model's inputs ({', '.join(port.name for port in ports)})"
        )
    features: list[FeatureSpec] = []
    for port in ports:
        (found,) = _inferred(rows, [port.name], text=port.kind == TEXT_TENSOR)
        if found.type == "category" and port.kind != TEXT_TENSOR:
            raise ArtifactError(
                f"the model takes {port.name} as a {port.kind}, and the CSV holds text there: "
                f"{_first_text(rows, port.name, port)}"
            )
        kind = _feature_type(port.kind)
        categories = found.categories if kind == "category" else None
        features.append(FeatureSpec(name=port.name, type=kind, categories=categories))
    return tuple(features)


def _inferred(rows: Sequence[Row], names: Sequence[str], *, text: bool) -> tuple[FeatureSpec, ...]:
    """What the columns hold; ``text``: all of them are taken as text, numbers too."""
    spec = ModelSpec(features={name: Feature(type="category") for name in names}) if text else ModelSpec()
    inferred = {
        feature.name: feature for feature in infer_features(spec, [_part(row, names) for row in rows])
    }
    return tuple(inferred.get(name, FeatureSpec(name=name, type="number")) for name in names)


def _part(row: Row, names: Sequence[str]) -> dict[str, FeatureValue]:
    return {name: row.get(name) for name in names}


def _feature_type(kind: str) -> FeatureType:
    if kind == TEXT_TENSOR:
        return "category"
    return "bool" if kind == BOOL_TENSOR else "number"


def _first_text(rows: Sequence[Row], name: str, port: Port) -> str:
    """Name the first cell that makes a column one of text, and say what to write there."""
    texts = [
        (number, value)
        for number, row in enumerate(rows, start=FIRST_ROW)
        if isinstance(value := row[name], str) and not _fits(value, port)
    ]
    number, value = texts[0]
    more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
    return f"column {name}, row {number} is {value[:40]!r}{more}: {_cure(value, port)}"


def _fits(value: str, port: Port) -> bool:
    return value.lower() in TRUE_FALSE if port.kind == BOOL_TENSOR else number_of(value) is not None


def _cure(value: str, port: Port) -> str:
    if port.kind == BOOL_TENSOR:
        return number_cure(value) or "write true or false"
    return number_cure(value) or "write the numbers that your model was trained on"
