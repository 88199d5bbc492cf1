"""Learners by their spec: ``hgb`` gives ONNX, ``river`` gives river-json, ``custom`` is your own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from ..schemas.errors import SpecError
from ..schemas.spec import CustomLearner, HistGradientBoosting
from ..schemas.spec import Learner as LearnerSpec
from .fitted import Fitted, Learner, LearningError

__all__ = ["Fitted", "Learner", "LearningError", "make_learner"]


def make_learner(spec: LearnerSpec) -> Learner:
    """Raises SpecError when a custom factory cannot be imported or gives no learner.

    The libraries are imported here: a server that only serves has none of them.
    """
    if isinstance(spec, HistGradientBoosting):
        from .hgb import HgbLearner

        return HgbLearner(spec)
    if isinstance(spec, CustomLearner):
        return _custom(spec)
    from .river_learner import RiverLearner

    return RiverLearner(spec)


def _custom(spec: CustomLearner) -> Learner:
    module, _, name = spec.factory.partition(":")
    try:
        factory = cast("Callable[..., Learner]", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise SpecError(
            f"learner {spec.factory}",
            (f"cannot be imported ({error}): install its package where the trainer runs",),
        ) from error
    learner = factory(**spec.parameters)
    if not callable(getattr(learner, "fit", None)):
        raise SpecError(
            f"learner {spec.factory}", (f"must return an object with fit(...), got {type(learner).__name__}",)
        )
    return learner
