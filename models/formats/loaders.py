"""From artifact bytes to a predictor, by format-specific loaders from an allow-list. Never a pickle.

The caller has checked digest and signature; whatever passes here is parsed by a loader that runs no code
of the artifact's own. The libraries behind a format are imported when the first artifact of it comes.
"""

from __future__ import annotations

from collections.abc import Callable

from ...schemas.errors import ArtifactError
from .fitted import Answer, ModelSignature, Predictor

__all__ = ["MAX_ARTIFACT_BYTES", "Answer", "ModelSignature", "Predictor", "load"]

MAX_ARTIFACT_BYTES = 256 * 1024 * 1024


def load(signature: ModelSignature, data: bytes, *, max_bytes: int = MAX_ARTIFACT_BYTES) -> Predictor:
    """Raises ArtifactError when the bytes are too many, not of the format, or not of the stated signature."""
    if len(data) > max_bytes:
        raise ArtifactError(f"the artifact has {len(data)} bytes, more than the {max_bytes} allowed")
    loader = _LOADERS.get(signature.format)
    if loader is None:
        raise ArtifactError(f"format {signature.format!r} is not one of {', '.join(sorted(_LOADERS))}")
    try:
        return loader(signature, data)
    except ImportError as error:
        raise ArtifactError(
            f"the library behind {signature.format} is missing here ({error}): pip install 'driftloop[serve]'"
        ) from error


def _load_onnx(signature: ModelSignature, data: bytes) -> Predictor:
    from .onnx_model import OnnxPredictor

    return OnnxPredictor(signature, data)


def _load_river(signature: ModelSignature, data: bytes) -> Predictor:
    from .river_json import RiverPredictor

    return RiverPredictor(signature, data)


_LOADERS: dict[str, Callable[[ModelSignature, bytes], Predictor]] = {
    "onnx": _load_onnx,
    "river-json": _load_river,
}
