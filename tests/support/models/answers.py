"""What tests ask of a model's answers."""

from __future__ import annotations

from driftloop.models.formats.fitted import Answer


def best_scored(answer: Answer) -> str:
    """The class with the highest score."""
    assert answer.scores
    return max(answer.scores, key=answer.scores.__getitem__)
