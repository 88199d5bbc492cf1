"""From artifact bytes to a predictor, by format-specific loaders from an allow-list. Never a pickle."""

from __future__ import annotations

from .fitted import Answer, ModelSignature, Predictor

__all__ = ["MAX_ARTIFACT_BYTES", "Answer", "ModelSignature", "Predictor", "load"]

MAX_ARTIFACT_BYTES = 256 * 1024 * 1024


def load(signature: ModelSignature, data: bytes, *, max_bytes: int = MAX_ARTIFACT_BYTES) -> Predictor:
    raise NotImplementedError
