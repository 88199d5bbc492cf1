"""What a label does to a prediction, as functions of the two alone.

Everything follows from the records and their append times, never from the order in which the two topics were
read: an answer's outcomes are the fold of ``classify`` over the labels of its id in their partition's order.

- A label meets a prediction iff it was appended at most ``horizon`` after it, or at most ``early_horizon``
  before it. From the first meeting on, labels count as corrections for ``correction_window``.
- Feedback (``correct``) is about the champion's answer and says nothing of shadows and canaries.
- A label of a source that the model's spec does not allow changes nothing, whenever it comes.
- Of a model that declares its classes, a label that means none of them is no truth. Declared or not, what is
  one class in another spelling is that class (``schemas.values.classes``).
- A weaker source never overrides a stronger one; of equal or stronger ones a different label revises, and
  the same label is a repeat (and lends its source's strength).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ....schemas.base import ClassValue, class_name
from ....schemas.serving import FeatureType
from ....schemas.spec.model import Join, ModelSpec
from ....schemas.values.classes import Classes, are_one_class
from .outcomes import LabelPayload
from .records import Answer, Match, PendingPrediction


class LabelEffect(Enum):
    """What a label does to one prediction."""

    FIRST = "first"
    CORRECTION = "correction"
    REPEAT = "repeat"
    WEAKER = "weaker"
    OUT_OF_TIME = "out of time"
    NOT_APPLICABLE = "not applicable"
    UNUSABLE = "unusable"
    NOT_ALLOWED = "not allowed"


@dataclass(frozen=True, slots=True)
class ModelRules:
    """What joining needs to know of a model's spec."""

    regression: bool = False
    classes: Classes | None = None
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    segments: tuple[str, ...] = ()
    feature_types: Mapping[str, FeatureType] = field(default_factory=dict[str, FeatureType])
    allowed_sources: frozenset[str] | None = None

    @classmethod
    def of(cls, spec: ModelSpec) -> ModelRules:
        allowed = spec.labels.allowed_sources
        return cls(
            regression=spec.task == "regression",
            classes=None if spec.classes is None else Classes.of(spec.classes),
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
        """Whether any label that is a class may be a match, whatever its source."""
        return self.allowed_sources is None and not self.regression

    def class_of(self, name: str) -> str:
        """Return the declared class that a name means, or else the name."""
        found = None if self.classes is None else self.classes.of_name[name]
        return name if found is None else found

    def is_one_class(self, one: str, other: str) -> bool:
        """Whether two names mean one class."""
        if self.classes is None:
            return are_one_class(one, other)
        return self.class_of(one) == self.class_of(other)

    def rank(self, source: str) -> int:
        """Return 0 for the strongest; sources that the spec does not name rank below all that it does."""
        return self.ranks.get(source, len(self.ranks))


DEFAULT_RULES = ModelRules.of(ModelSpec())


@dataclass(frozen=True, slots=True)
class Rules:
    """The published specs as last read."""

    join: Join = field(default_factory=Join)
    models: Mapping[str, ModelRules] = field(default_factory=dict[str, ModelRules])

    def of(self, model: str) -> ModelRules:
        """Return a model's rules; the default ones if its spec was removed after its predictions came."""
        return self.models.get(model, DEFAULT_RULES)


def classify(
    pending: PendingPrediction,
    payload: LabelPayload,
    append_ms: int,
    rules: ModelRules,
    join: Join,
    proven: bool,
) -> LabelEffect:
    """Return what a label appended at ``append_ms`` does to ``pending``.

    ``proven``: a match counts only if its outcome is known to be in the log. It is False while restoring,
    because emitted outcomes are replayed after the inputs.
    """
    if payload.feedback and pending.variant.role != "champion":
        return LabelEffect.NOT_APPLICABLE
    if not rules.allows(payload.source):
        return LabelEffect.NOT_ALLOWED
    match = pending.match
    if match is None or (proven and match.seq < 0):
        delay = append_ms - pending.append_ms
        if delay > join.horizon or -delay > join.early_horizon:
            return LabelEffect.OUT_OF_TIME
        return LabelEffect.FIRST if is_usable(payload, rules) else LabelEffect.UNUSABLE
    if append_ms - match.matched_ms > join.correction_window:
        return LabelEffect.OUT_OF_TIME
    # Before its strength, so that all predictions of the id refuse it: a replay skips what was refused.
    if not is_usable(payload, rules):
        return LabelEffect.UNUSABLE
    if rules.rank(payload.source) > rules.rank(match.source):
        return LabelEffect.WEAKER
    same = is_same(payload.value, payload.feedback, match, rules)
    return LabelEffect.REPEAT if same else LabelEffect.CORRECTION


def is_same(value: ClassValue, feedback: bool, match: Match, rules: ModelRules) -> bool:
    """Whether a label repeats what the match has, in whatever spelling."""
    if feedback != match.feedback:
        return False
    return rules.is_one_class(class_name(value), class_name(match.value))


def is_usable(payload: LabelPayload, rules: ModelRules) -> bool:
    """Whether the label can be ground truth: a number of a regression, one of the classes, or feedback."""
    if payload.feedback:
        return True
    if rules.regression:
        return type(payload.value) in (int, float)
    return rules.classes is None or rules.classes.of_name[payload.name] is not None


def why_unusable(payload: LabelPayload, rules: ModelRules, model: str) -> str:
    """Say why the label cannot be ground truth, and what could."""
    if rules.classes is None:
        return f"{model} is a regression: a number is needed (got {payload.value!r})"
    return rules.classes.why_none(payload.value, model)


def error_value(answer: Answer, payload: LabelPayload, rules: ModelRules) -> float | None:
    """Return 0 or 1 for classes and feedback, |y − ŷ| for numbers; None if there is nothing to compare.

    An answer that means none of the classes is wrong, whatever the label.
    """
    if answer is None:
        return None
    if rules.regression:
        if payload.feedback or isinstance(answer, str) or isinstance(payload.value, str):
            return None
        return min(abs(float(payload.value) - answer), sys.float_info.max)
    if payload.feedback:
        return 0.0 if payload.value else 1.0
    answered = answer if isinstance(answer, str) else class_name(answer)
    return 0.0 if rules.is_one_class(payload.name, answered) else 1.0


def answer_of(prediction: ClassValue | None, rules: ModelRules) -> Answer:
    """Return a prediction in the form that is compared: a class by its canonical name, a number as float."""
    if prediction is None:
        return None
    if rules.regression and not isinstance(prediction, (str, bool)):
        return float(prediction)
    return class_name(prediction)
