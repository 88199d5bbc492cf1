"""What the topics hold against what the servers answered. Knows nothing of the joiner or the client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import orjson
from driftloop.schemas.topics import OUTCOMES, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.outage.asking import AnswerLedger
from tests.soak.checks.logs import Line, read

MUST_BE_ZERO = (
    "failed_requests", "lost", "forked", "out_of_order",
    "outcomes_missing", "outcomes_repeated",
    "over_limit", "slow_stops", "crashes", "not_live", "never_spilled",
)  # fmt: skip


def check(connection: Connection, partitions: int, ledgers: Sequence[AnswerLedger]) -> dict[str, int]:
    """Counts of what must not be, and how many predictions repeat with the same bytes."""
    lines = [line for number in range(partitions) for line in read(connection, PREDICTIONS, number)]
    outcomes = Counter(
        str(event["prediction_id"])
        for number in range(partitions)
        for line in read(connection, OUTCOMES, number)
        if (event := orjson.loads(line.value))["revision"] == 0
    )
    labelled = [name for ledger in ledgers for name in ledger.labels]
    return {
        **arrived(lines, ledgers),
        "outcomes_missing": sum(outcomes[name] == 0 for name in labelled),
        "outcomes_repeated": sum(count > 1 for count in outcomes.values()),
    }


def arrived(lines: Sequence[Line], ledgers: Sequence[AnswerLedger]) -> dict[str, int]:
    """Order is that of first arrivals, per server and partition: a repeat with the same bytes is allowed."""
    first: dict[str, Line] = {}
    repeated = forked = 0
    order: dict[str, int] = {
        one.prediction_id: place for ledger in ledgers for place, one in enumerate(ledger.predictions)
    }
    furthest: dict[tuple[str, int], int] = {}
    out_of_order = 0
    for line in lines:
        name = (line.key or b"").decode()
        if (before := first.get(name)) is not None:
            repeated += before.value == line.value
            forked += before.value != line.value
            continue
        first[name] = line
        if (place := order.get(name)) is None:
            continue
        source = (name.rpartition("-")[0], line.partition)
        out_of_order += place < furthest.get(source, -1)
        furthest[source] = max(place, furthest.get(source, -1))
    return {
        "lost": sum(name not in first for name in order),
        "forked": forked,
        "out_of_order": out_of_order,
        "repeated_same_bytes": repeated,
    }


def found(figures: Mapping[str, object]) -> dict[str, int]:
    """The counts that should have been 0 and are not. A count that was not taken is a fault too."""
    return {name: value for name in MUST_BE_ZERO if (value := int(str(figures[name]))) != 0}
