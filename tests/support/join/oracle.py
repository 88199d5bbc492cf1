"""What must come out of a joiner: said of the whole logs at once.

The oracle knows nothing of batches, memory, disks or restarts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from driftloop.schemas.base import class_name
from driftloop.schemas.events import Outcome
from driftloop.schemas.spec.model import Join

from tests.support.join.world import JoinWorld, LoggedRecord

SOURCES = ("expert", "system", "user")
UNKNOWN_MODEL = "nobody's"
Spellings = Mapping[str, str | None]
NO_SPELLINGS: Spellings = {}
Identity = tuple[object, object, object, object]


def identity(event: dict[str, object]) -> Identity:
    return event["prediction_id"], event["model"], event["version"], event["role"]


def identity_of(outcome: Outcome) -> Identity:
    return outcome.prediction_id, outcome.model, outcome.version, outcome.role


@dataclass
class ExpectedOutcomes:
    """What must have come out, once everything is over."""

    outcomes: dict[tuple[Identity, int], tuple[object, float | None]] = field(default_factory=dict)
    unreached_labels: set[int] = field(default_factory=set[int])
    unmatched: int = 0
    repeats_of_predictions: int = 0
    repeats_of_labels: int = 0
    refused_predictions: set[int] = field(default_factory=set[int])
    refused_labels: set[int] = field(default_factory=set[int])
    reached_as: dict[int, str] = field(default_factory=dict[int, str])  # what each label did first


def oracle(
    predictions: Sequence[LoggedRecord],
    labels: Sequence[LoggedRecord],
    join: Join,
    spellings: Spellings = NO_SPELLINGS,
) -> ExpectedOutcomes:
    """Everything seen at once: per prediction a fold over the labels of its id.

    ``spellings``: of declared classes, each with the class that it means; None: it means none.
    """
    expected = ExpectedOutcomes()
    accepted: dict[Identity, LoggedRecord] = {}
    for offset, sent in enumerate(predictions):
        if sent.event["model"] == UNKNOWN_MODEL:
            expected.refused_predictions.add(offset)
            continue
        first = accepted.setdefault(identity(sent.event), sent)
        if first is sent:
            continue
        if first.event == sent.event:
            expected.repeats_of_predictions += 1
        else:
            expected.refused_predictions.add(offset)
    unreadable = {offset for offset, said in enumerate(labels) if not _says_something(said)}
    expected.refused_labels |= unreadable
    reached = expected.reached_as
    for key, sent in accepted.items():
        current: tuple[dict[str, object], int] | None = None
        revision, matched_ms = 0, 0
        for offset, said in enumerate(labels):
            event = said.event
            if event["prediction_id"] != sent.event["prediction_id"] or offset in unreadable:
                continue
            if "correct" in event and sent.event["role"] != "champion":
                continue
            rank = SOURCES.index(str(event["source"]))
            if current is None:
                if not -join.early_horizon <= said.append_ms - sent.append_ms <= join.horizon:
                    continue
            elif said.append_ms > matched_ms + join.correction_window:
                continue
            truth = _truth(event, spellings)
            if truth is None:
                if reached.setdefault(offset, "refused") == "refused":
                    expected.refused_labels.add(offset)
                continue
            if current is None:
                matched_ms = max(said.append_ms, sent.append_ms)
            elif rank > current[1] or truth == _truth(current[0], spellings):
                reached.setdefault(offset, "repeat")
                expected.repeats_of_labels += 1
                if rank <= current[1]:
                    current = event, rank
                continue
            else:
                revision += 1
            reached.setdefault(offset, "outcome")
            current = event, rank
            expected.outcomes[key, revision] = truth, _error(sent.event, event, spellings)
        expected.unmatched += current is None
    expected.unreached_labels = set(range(len(labels))) - reached.keys() - expected.refused_labels
    return expected


def _says_something(said: LoggedRecord) -> bool:
    return "label" in said.event or "correct" in said.event


def _truth(event: dict[str, object], spellings: Spellings) -> object:
    return event["correct"] if "correct" in event else _class(event["label"], spellings)


def _class(value: object, spellings: Spellings) -> str | None:
    assert isinstance(value, str | int | float)
    name = class_name(value)
    return spellings.get(name, name)


def _error(prediction: dict[str, object], label: dict[str, object], spellings: Spellings) -> float | None:
    if "error" in prediction:
        return None
    if "correct" in label:
        return 0.0 if label["correct"] else 1.0
    return float(_class(prediction["prediction"], spellings) != _truth(label, spellings))


def got(
    world: JoinWorld, spellings: Spellings = NO_SPELLINGS
) -> dict[tuple[Identity, int], tuple[object, float | None]]:
    """What came out, in the oracle's words. An outcome that came twice is an error."""
    found: dict[tuple[Identity, int], tuple[object, float | None]] = {}
    for outcome in world.outcomes:
        key = identity_of(outcome), outcome.revision
        assert key not in found, f"twice: {key}"
        truth = outcome.correct if outcome.label is None else _class(outcome.label, spellings)
        found[key] = truth, outcome.error_value
    return found
