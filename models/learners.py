"""Learners by their spec: ``hgb`` and ``custom`` give ONNX, ``river`` gives river-json."""

from __future__ import annotations

from ..schemas.spec import Learner as LearnerSpec
from .fitted import Fitted, Learner

__all__ = ["Fitted", "Learner", "make_learner"]


def make_learner(spec: LearnerSpec) -> Learner:
    raise NotImplementedError
