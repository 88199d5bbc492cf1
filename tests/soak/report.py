"""Figures of a run: recovery and restore times out of what was watched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import orjson
from driftloop.schemas.topics import JOIN_PROGRESS
from driftloop.streams.kafka.connection import Connection

from tests.soak.checks.logs import read
from tests.soak.watch import Recovery


def spread(values: Iterable[float]) -> dict[str, float | int | None]:
    """n, p50, p99 and max."""
    data = np.array(list(values))
    if not len(data):
        return {"n": 0, "p50": None, "p99": None, "max": None}
    p50, p99, most = (round(float(value)) for value in np.percentile(data, [50, 99, 100]))
    return {"n": len(data), "p50": p50, "p99": p99, "max": most}


def recoveries(seen: Sequence[Recovery]) -> dict[str, object]:
    """From a fault to the next outcome while all brokers were there; a partition hit again is counted apart.

    ``recovery_ms``: kill -9 with the state kept and the process started again at once.
    """
    clear = [one for one in seen if one.ms is not None and not one.overlapped]
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for one in clear:
        by_kind["with a broker away" if one.disturbed else one.how].append(one.ms or 0.0)
    return {
        "recovery_ms": spread(by_kind.get("kill-join", ())),
        "recovery_ms_by_fault": {how: spread(values) for how, values in sorted(by_kind.items())},
        "struck_again_before_recovery": sum(one.overlapped for one in seen),
        "not_recovered_under_load": sum(one.ms is None and not one.overlapped for one in seen),
    }


def restores(connection: Connection, partitions: int) -> dict[str, object]:
    """What the joiners reported of their restores, by what they began with."""
    reported: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(partitions):
        for line in read(connection, JOIN_PROGRESS, number):
            progress = orjson.loads(line.value)
            if progress["phase"] == "joining" and progress.get("total"):
                reported[progress["source"]].append(progress)
    return {
        "restores": {
            source: {
                "n": len(ones),
                "records": spread(one["records"] for one in ones),
                "records_per_s": spread(one["records_per_s"] for one in ones if one["records"] >= 1_000),
                "ms": spread(one["took_ms"] for one in ones),
                "fetched_bytes": spread(one.get("fetched_bytes", 0) for one in ones),
            }
            for source, ones in sorted(reported.items())
        }
    }
