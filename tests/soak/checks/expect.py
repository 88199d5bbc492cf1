"""What must come out of one prediction_id: everything that was ever said of it, looked at all at once.

The rules are those of DESIGN.md, in the order of the logs and by their append times. No batch, no memory, no
restart: this is meant to be so plain that it cannot be wrong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

Value = str | float | bool
RANKS = {"expert": 0, "system": 1, "user": 2}


@dataclass(frozen=True, slots=True)
class Windows:
    horizon_ms: int
    early_ms: int
    correction_ms: int


class LoggedPrediction(NamedTuple):
    """A prediction; without an answer where the request failed. ``content``, ``features``: checksums."""

    model: str
    version: int
    role: str
    append_ms: int
    offset: int
    answer: Value | None
    content: int
    features: int

    @property
    def identity(self) -> tuple[str, int, str]:
        return self.model, self.version, self.role


class LoggedLabel(NamedTuple):
    """A label: ground truth, or feedback on the champion's answer."""

    append_ms: int
    offset: int
    value: Value
    feedback: bool
    source: str


class DueOutcome(NamedTuple):
    """An outcome that must be there, once."""

    identity: tuple[str, int, str]
    revision: int
    value: Value
    feedback: bool
    source: str
    error: float | None
    features: int


@dataclass(slots=True)
class Expected:
    """What must be there.

    ``refused``: offsets of predictions that are dead letters. ``unreached``: of labels that reached nothing.
    ``matched``: answers that have an outcome, of ``answers``. ``repeated``: predictions that came again.
    ``reached_as``: by offset, whether a label first gave an outcome, or repeated what was known.
    ``unclear``: a repeat came when its first might already have been forgotten; both results are right.
    """

    due: list[DueOutcome] = field(default_factory=list[DueOutcome])
    refused: list[int] = field(default_factory=list[int])
    unreached: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    counts: Counter[tuple[tuple[str, int, str], str]] = field(
        default_factory=Counter[tuple[tuple[str, int, str], str]]
    )
    answers: int = 0
    matched: int = 0
    repeated: int = 0
    reached_as: dict[int, str] = field(default_factory=dict[int, str])
    unclear: bool = False


def expected_of(
    predictions: list[LoggedPrediction],
    labels: list[LoggedLabel],
    windows: Windows,
    regressions: frozenset[str],
) -> Expected:
    """All of one id, each list in its partition's order."""
    expected = Expected()
    kept: dict[tuple[str, int, str], LoggedPrediction] = {}
    for one in predictions:
        first = kept.setdefault(one.identity, one)
        if first is one:
            expected.counts[one.identity, "predictions"] += 1
            expected.counts[one.identity, "failed"] += one.answer is None
            continue
        age = one.append_ms - first.append_ms
        if age > min(windows.horizon_ms, windows.correction_ms):
            expected.unclear = True
        if one.content == first.content:
            expected.counts[one.identity, "duplicate"] += 1
            expected.repeated += 1
        else:
            expected.refused.append(one.offset)
    expected.answers = len(kept)
    for one in kept.values():
        _fold(one, labels, windows, one.model in regressions, expected)
    reached = expected.reached_as
    expected.unreached = [(one.offset, one.append_ms) for one in labels if one.offset not in reached]
    return expected


def _fold(
    one: LoggedPrediction,
    labels: list[LoggedLabel],
    windows: Windows,
    regression: bool,
    expected: Expected,
) -> None:
    """The labels of one answer, in order."""
    current: LoggedLabel | None = None
    matched_ms = revision = 0
    for label in labels:
        if label.feedback and one.role != "champion":
            continue
        if current is None:
            delay = label.append_ms - one.append_ms
            if not -windows.early_ms <= delay <= windows.horizon_ms:
                continue
            matched_ms = max(label.append_ms, one.append_ms)
            expected.matched += 1
            expected.counts[one.identity, "outcomes"] += 1
            expected.counts[one.identity, "early"] += delay < 0
        elif label.append_ms - matched_ms > windows.correction_ms:
            continue
        elif RANKS[label.source] > RANKS[current.source]:
            expected.reached_as.setdefault(label.offset, "repeated")
            expected.counts[one.identity, "duplicate"] += 1
            continue
        elif (label.feedback, label.value) == (current.feedback, current.value):
            expected.reached_as.setdefault(label.offset, "repeated")
            expected.counts[one.identity, "duplicate"] += 1
            current = label
            continue
        else:
            revision += 1
            expected.counts[one.identity, "corrected"] += 1
        expected.reached_as.setdefault(label.offset, "outcomes")
        current = label
        error = _error(one.answer, label, regression)
        expected.due.append(
            DueOutcome(one.identity, revision, label.value, label.feedback, label.source, error, one.features)
        )


def _error(answer: Value | None, label: LoggedLabel, regression: bool) -> float | None:
    if answer is None:
        return None
    if regression:
        return None if label.feedback else abs(float(label.value) - float(answer))
    if label.feedback:
        return 0.0 if label.value else 1.0
    return 0.0 if label.value == answer else 1.0
