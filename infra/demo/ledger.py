"""What the demo sent, compared with what is on the topics; no role's own counters are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import orjson

from ...schemas.topics import DEAD_LETTERS, LABELS, OUTCOMES, PREDICTIONS
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import LogReader

_END_S = 180.0


@dataclass(slots=True)
class Ledger:
    """Row numbers of the flights that were predicted and labelled."""

    predicted: list[int] = field(default_factory=list[int])
    labelled: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True)
class FlightOutcome:
    """One outcome on the topic: which flight, which version answered, and what."""

    prediction_id: str
    version: int
    prediction: str | None
    label: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sent against found. ``lost`` and ``duplicated`` add up all three topics."""

    predictions: int
    labels: int
    outcomes: int
    dead_letters: int
    lost: int
    duplicated: int
    answered: tuple[FlightOutcome, ...]


def compare(connection: Connection, ledger: Ledger, prediction_ids: Sequence[str]) -> Comparison:
    """Read predictions, labels, outcomes and dead letters whole (read_committed)."""
    asked = [prediction_ids[row] for row in ledger.predicted]
    answered = [prediction_ids[row] for row in ledger.labelled]
    lost = duplicated = 0
    found: dict[str, int] = {}
    outcomes: list[FlightOutcome] = []
    for topic, sent in ((PREDICTIONS, asked), (LABELS, answered), (OUTCOMES, answered)):
        seen: Counter[str] = Counter()
        with closing(LogReader(connection, (topic,))) as reader:
            for record in reader.catch_up(_END_S):
                event = orjson.loads(record.value or b"{}")
                known = event["prediction_id"]
                seen[known] += 1
                if topic is OUTCOMES:
                    outcomes.append(
                        FlightOutcome(known, event["version"], event.get("prediction"), event["label"])
                    )
        missing, surplus = differences(sent, seen)
        lost, duplicated = lost + missing, duplicated + surplus
        found[topic.name] = seen.total()
    return Comparison(
        predictions=found[PREDICTIONS.name],
        labels=found[LABELS.name],
        outcomes=found[OUTCOMES.name],
        dead_letters=_count(connection),
        lost=lost,
        duplicated=duplicated,
        answered=tuple(outcomes),
    )


def differences(sent: Iterable[str], seen: Counter[str]) -> tuple[int, int]:
    """(missing, surplus) of what was seen against what was sent."""
    wanted = Counter(sent)
    return (wanted - seen).total(), (seen - wanted).total()


def _count(connection: Connection) -> int:
    with closing(LogReader(connection, (DEAD_LETTERS,))) as reader:
        return sum(1 for _ in reader.catch_up(_END_S))


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """p50 and p99, or None if there is nothing to measure."""
    data = np.fromiter(values, np.float64)
    if not len(data):
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(data, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}
