"""What a label does to a prediction: the whole of the joiner's judgement, as functions of the two alone.

Everything follows from the records and their append times, never from the order in which the two topics were
read: an answer's outcomes are the fold of ``judge`` over the labels of its id in their partition's order.

- A label meets a prediction iff it was appended at most ``horizon`` after it, or at most ``early_horizon``
  before it. From the first meeting on, labels count as corrections for ``correction_window``.
- A verdict (``correct``) is about the champion's answer and says nothing of shadows and canaries.
- A label of a source that the model's spec does not allow changes nothing, whenever it comes.
- A weaker source never overrides a stronger one; of equal or stronger ones a different label revises, and
  the same label is a repeat (and lends its source's strength).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ...schemas.base import ClassValue, class_name
from ...schemas.serving import FeatureType
from ...schemas.spec.model import Join, ModelSpec
from .outcomes import Statement
from .records import Answer, Held, Match


class Ruling(Enum):
    """What a label is to one prediction."""

    FIRST = "first"
    CORRECTION = "correction"
    REPEAT = "repeat"
    WEAKER = "weaker"
    OUT_OF_TIME = "out of time"
    NOT_ABOUT_IT = "not about it"
    UNUSABLE = "unusable"
    NOT_ALLOWED = "not allowed"


@dataclass(frozen=True, slots=True)
class ModelRules:
    """What joining needs of a model's spec."""

    regression: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    segments: tuple[str, ...] = ()
    feature_types: Mapping[str, FeatureType] = field(default_factory=dict[str, FeatureType])
    allowed_sources: frozenset[str] | None = None

    @classmethod
    def of(cls, spec: ModelSpec) -> ModelRules:
        allowed = spec.labels.allowed_sources
        return cls(
            regression=spec.task == "regression",
            ranks={source: rank for rank, source in enumerate(spec.labels.source_precedence)},
            segments=spec.segments,
            # A hashed feature arrives as its hash, whatever its type was.
            feature_types={
                name: "category" if feature.privacy == "hash" else feature.type
                for name, feature in spec.kept_features().items()
            },
            allowed_sources=None if allowed is None else frozenset(allowed),
        )

    def allows(self, source: str) -> bool:
        """Whether labels of this source count for the model."""
        return self.allowed_sources is None or source in self.allowed_sources

    @property
    def takes_any_class(self) -> bool:
        """Whether any label that is no verdict may be a match."""
        return self.allowed_sources is None and not self.regression

    def rank(self, source: str) -> int:
        """0 is the strongest; sources that the spec does not name rank below all that it does."""
        return self.ranks.get(source, len(self.ranks))


DEFAULT_RULES = ModelRules.of(ModelSpec())


@dataclass(frozen=True, slots=True)
class Rules:
    """The published specs as the joiner last read them."""

    join: Join = field(default_factory=Join)
    models: Mapping[str, ModelRules] = field(default_factory=dict[str, ModelRules])

    def of(self, model: str) -> ModelRules:
        """A model's rules; the default ones where its spec is gone since its predictions came."""
        return self.models.get(model, DEFAULT_RULES)


def judge(held: Held, said: Statement, append_ms: int, rules: ModelRules, join: Join, proven: bool) -> Ruling:
    """What a label appended at ``append_ms`` is to ``held``.

    ``proven``: a match counts only if its outcome is known to be in the log. While restoring it is False,
    because what was emitted is learned after what was read.
    """
    if said.verdict and held.track.role != "champion":
        return Ruling.NOT_ABOUT_IT
    if not rules.allows(said.source):
        return Ruling.NOT_ALLOWED
    match = held.match
    if match is None or (proven and match.seq < 0):
        delay = append_ms - held.append_ms
        if delay > join.horizon or -delay > join.early_horizon:
            return Ruling.OUT_OF_TIME
        return Ruling.FIRST if is_usable(said, rules) else Ruling.UNUSABLE
    if append_ms - match.matched_ms > join.correction_window:
        return Ruling.OUT_OF_TIME
    if rules.rank(said.source) > rules.rank(match.source):
        return Ruling.WEAKER
    if is_same(said.value, said.verdict, match):
        return Ruling.REPEAT
    return Ruling.CORRECTION if is_usable(said, rules) else Ruling.UNUSABLE


def is_same(value: ClassValue, verdict: bool, match: Match) -> bool:
    """Whether a label says what the match has."""
    return verdict == match.verdict and class_name(value) == class_name(match.value)


def is_usable(said: Statement, rules: ModelRules) -> bool:
    """A regression's ground truth is a number; a verdict or a class is right for any model's outcome."""
    return said.verdict or not rules.regression or type(said.value) in (int, float)


def error_value(answer: Answer, said: Statement, rules: ModelRules) -> float | None:
    """0 or 1 for classes and verdicts, |y − ŷ| for numbers; None where there is nothing to compare."""
    if answer is None:
        return None
    if rules.regression:
        if said.verdict or isinstance(answer, str) or isinstance(said.value, str):
            return None
        return min(abs(float(said.value) - answer), sys.float_info.max)
    if said.verdict:
        return 0.0 if said.value else 1.0
    return 0.0 if said.name == (answer if isinstance(answer, str) else class_name(answer)) else 1.0


def answer_of(prediction: ClassValue | None, rules: ModelRules) -> Answer:
    """A prediction as it is compared: a class by its canonical name, a number as float."""
    if prediction is None:
        return None
    if rules.regression and not isinstance(prediction, (str, bool)):
        return float(prediction)
    return class_name(prediction)
