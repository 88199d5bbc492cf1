"""Make learners from their spec: ``hgb`` writes ONNX, ``river`` writes river-json, ``custom`` is your own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable
from typing import cast

from ...schemas.errors import SpecError
from ...schemas.spec.model import CustomLearner, HistGradientBoosting, LearnerSpec
from .fitted import Learner


def make_learner(spec: LearnerSpec) -> Learner:
    """Raise SpecError if a custom factory cannot be imported or returns no learner.

    The libraries are imported here, since a server that only serves has none of them.
    """
    if isinstance(spec, HistGradientBoosting):
        from .hgb import HgbLearner

        return HgbLearner(spec)
    if isinstance(spec, CustomLearner):
        return _custom(spec)
    from .river_learner import RiverLearner

    return RiverLearner(spec)


def refuse_unlisted(learners: Iterable[LearnerSpec], allowed: Collection[str]) -> None:
    """Raise SpecError for a custom learner that the trainer's host does not allow.

    A spec comes over Kafka, and with a factory's name and parameters it could call anything that can be
    imported. ``allowed``: ``package.module:name``, or ``package.module`` for all of a module.
    """
    for spec in learners:
        if isinstance(spec, CustomLearner):
            module, _, _ = spec.factory.partition(":")
            if spec.factory not in allowed and module not in allowed:
                raise SpecError(
                    f"learner {spec.factory}",
                    (f"is not allowed here: set DRIFTLOOP_LEARNERS={spec.factory} where the trainer runs",),
                )


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
