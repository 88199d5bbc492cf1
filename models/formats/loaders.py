"""Load artifact bytes into a predictor, by a loader per format from an allow-list. Never a pickle.

The caller has checked digest and signature. The loaders parse the bytes and run no code from the artifact.
The libraries behind a format are imported with its first artifact.
"""

from __future__ import annotations

from typing import get_args

from ...schemas.errors import ArtifactError
from ...schemas.serving import ArtifactFormat
from .fitted import ModelSignature, Predictor

MAX_ARTIFACT_BYTES = 256 * 1024 * 1024


def load(signature: ModelSignature, data: bytes, *, max_bytes: int = MAX_ARTIFACT_BYTES) -> Predictor:
    """Raise ArtifactError if the bytes are too many, not of the format, or not of the stated signature."""
    if len(data) > max_bytes:
        raise ArtifactError(f"the artifact has {len(data)} bytes, more than the {max_bytes} allowed")
    if signature.format not in get_args(ArtifactFormat):
        raise ArtifactError(
            f"format {signature.format!r} is not one of {', '.join(get_args(ArtifactFormat))}"
        )
    try:
        if signature.format == "onnx":
            from .onnx_model import OnnxPredictor

            return OnnxPredictor(signature, data)
        from .river_json import RiverPredictor

        return RiverPredictor(signature, data)
    except ImportError as error:
        raise ArtifactError(
            f"the library behind {signature.format} is missing here ({error}): pip install 'driftloop[serve]'"
        ) from error
