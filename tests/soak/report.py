"""Figures of a run: recovery and restore times out of what was watched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np

from tests.soak.watch import Recovery


def spread(values: Iterable[float]) -> dict[str, float | int | None]:
    """n, p50, p99 and max."""
    data = np.array(list(values))
    if not len(data):
        return {"n": 0, "p50": None, "p99": None, "max": None}
    p50, p99, most = (round(float(value)) for value in np.percentile(data, [50, 99, 100]))
    return {
        "n": len(data),
        "p50": p50,
        "p99": p99,
        "max": most,
    }


def recoveries(seen: Sequence[Recovery]) -> dict[str, object]:
    """Blow to next outcome, over all and by kind of blow. Struck again before it recovered: counted apart."""
    clear = [one for one in seen if one.ms is not None and not one.overlapped]
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for one in clear:
        by_kind[one.how].append(one.ms or 0.0)
    return {
        "recovery_ms": spread(one.ms or 0.0 for one in clear if one.how.startswith(("kill", "wipe"))),
        "recovery_ms_by_fault": {how: spread(values) for how, values in sorted(by_kind.items())},
        "struck_again_before_recovery": sum(one.overlapped for one in seen),
        "not_recovered_under_load": sum(one.ms is None and not one.overlapped for one in seen),
    }


def restores(faults: Sequence[dict[str, object]], seen: Sequence[Recovery]) -> dict[str, object]:
    """Of joiners whose local state was deleted: what their partitions' logs held within the horizon.

    The time includes the start of the process and joining the group, so the rate is a lower bound.
    """
    rates: list[float] = []
    records: list[float] = []
    sizes: list[float] = []
    for fault in faults:
        mine = [one for one in seen if one.fault == fault["number"] and one.ms is not None]
        held = cast("float", fault.get("restorable_records", 0.0))
        if fault["kind"] != "wipe-join" or not mine or not held or any(one.overlapped for one in mine):
            continue
        seconds = max(one.ms or 0.0 for one in mine) / 1000
        rates.append(held / seconds)
        records.append(held)
        sizes.append(cast("float", fault.get("deleted_bytes", 0.0)))
    return {
        "restores": len(rates),
        "restore_records": spread(records),
        "restore_records_per_s": spread(rates),
        "restore_deleted_bytes": spread(sizes),
    }
