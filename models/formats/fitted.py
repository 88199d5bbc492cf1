"""What learners return and loaders take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...schemas.errors import Error
from ...schemas.serving import ArtifactFormat, FeatureSpec, Task
from .features import Row


class LearningError(Error):
    """A learner cannot learn from these rows, e.g. because all labels are the same."""


class AnswerError(Error):
    """A model's answer to a row is not a number. Only that request failed."""


def classes_present(labels: Sequence[str | float], classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes that occur in labels, in the order given (else sorted). Raises LearningError below two."""
    present = {str(label) for label in labels}
    kept = tuple(name for name in (classes or sorted(present)) if name in present)
    if len(kept) < 2:
        raise LearningError(f"needs labels of at least two classes to learn from, got {list(kept)}")
    if len(kept) < len(present):
        raise LearningError(f"the labels name classes that are not stated: {sorted(present - set(kept))}")
    return kept


class ModelSignature(Protocol):
    """What a loader must know of a model; Manifest and Fitted both have it."""

    @property
    def format(self) -> ArtifactFormat: ...
    @property
    def task(self) -> Task: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    @property
    def features(self) -> tuple[FeatureSpec, ...]: ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model as bytes in an allowed format; ``classes`` in the order of the model's scores."""

    format: ArtifactFormat
    data: bytes
    features: tuple[FeatureSpec, ...]
    classes: tuple[str, ...] | None
    task: Task = "classification"


class Learner(Protocol):
    """Learns from rows, oldest first. Deterministic: the same arguments give the same bytes.

    ``classes`` orders the scores; classes that no label names are left out of the model.
    Raises LearningError when it cannot learn from the rows.
    """

    def fit(
        self,
        rows: Sequence[Row],
        labels: Sequence[str | float],
        *,
        features: tuple[FeatureSpec, ...],
        classes: tuple[str, ...] | None,
        task: Task,
        seed: int,
    ) -> Fitted: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a class name or a number; ``scores`` per class where the model has them."""

    prediction: str | float
    scores: dict[str, float] | None = None


class Predictor(Protocol):
    """A loaded model. Thread safe: ``predict`` may run from many threads at once."""

    def predict(self, rows: Sequence[Row]) -> list[Answer]:
        """One answer per row.

        Raises FeatureError when a value is not of its feature's type, AnswerError when an answer is not a
        number; an imported model may raise what its runtime raises.
        """
        ...
