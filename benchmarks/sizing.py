"""Write docs/sizing.md: what a deployment needs, computed from measured cost per event.

    python -m benchmarks.sizing

Reads ``.driftloop/bench/scale.json``, ``monitor.json`` and ``restore.json``; every number on the page
follows from them by the formulas that it states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .support.process import ROOT
from .support.results import read

PAGE = ROOT / "docs" / "sizing.md"
RATES = (1_000, 10_000, 100_000, 1_000_000)
PENDING = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
BUSY = 0.6  # of a core at the planned rate: the rest is for catching up
BEYOND_MEASURED = 3  # no instance is planned to hold more than so many times what was measured
PARTITIONS_PER_INSTANCE = 4  # room to add instances later, since the partition count is not changed lightly


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured, on the machine that ``machine`` names."""

    base_us: float
    slope_us: float  # per factor of ten of pending predictions
    measured_pending: int
    far_us: float
    models_ratio: float
    feature_us: float  # per feature beyond five
    bytes_per_pending: int
    rss_mb: int
    monitor_us: float
    entry_us: float  # of a model in a batch, in the monitor
    restore_per_s: float
    machine: str
    at: str

    def join_us(self, pending: float) -> float:
        """CPU per event with so many predictions pending in the process."""
        return self.base_us + self.slope_us * math.log10(max(pending, 100_000))


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """For one rate and one number of pending predictions."""

    instances: int
    partitions: int
    event_us: float
    disk_gb: float
    restore_min: float
    monitors: int


def plan(costs: Costs, rate: float, pending: float) -> CapacityPlan:
    """The fewest joiners of one core that carry the rate and hold what is pending."""
    most = BEYOND_MEASURED * costs.measured_pending
    instances = max(1, math.ceil(pending / most))
    while rate / instances * costs.join_us(pending / instances) / 1e6 > BUSY:
        instances += 1
    held = pending / instances
    return CapacityPlan(
        instances=instances,
        partitions=instances * PARTITIONS_PER_INSTANCE,
        event_us=costs.join_us(held),
        disk_gb=held * costs.bytes_per_pending / 2**30,
        restore_min=held / costs.restore_per_s / 60,
        monitors=max(1, math.ceil(rate / 2 * costs.monitor_us / 1e6 / BUSY)),
    )


def costs_of(scale: dict[str, Any], monitor: dict[str, Any], restore: dict[str, Any]) -> Costs:
    fit, last = scale["fits"]["pending"], scale["pending"][-1]
    # The fit's slope, from the point that costs most: a plan errs upwards.
    slope = max(0.0, float(fit["slope_us"]))
    costliest = max(scale["pending"], key=lambda point: point["us"])
    return Costs(
        base_us=costliest["us"] - slope * math.log10(costliest["pending"]),
        slope_us=slope,
        measured_pending=last["pending"],
        far_us=last["far_us"],
        models_ratio=scale["models_ratio"],
        feature_us=_feature_us(scale["features"]),
        bytes_per_pending=scale["bytes_per_pending"],
        rss_mb=scale["peak_rss_mb"],
        monitor_us=monitor["points"][0]["us"],
        entry_us=monitor["entry_us"],
        restore_per_s=restore["restore_per_s"],
        machine=scale["machine"],
        at=scale["at"][:10],
    )


def _feature_us(points: Sequence[dict[str, float]]) -> float:
    few, many = points[0], points[-1]
    return (many["us"] - few["us"]) / (many["features"] - few["features"])


_PAGE = """# Sizing

How many joiners, partitions and monitors a deployment needs. `python -m benchmarks.sizing` wrote this page
from what `make bench-scale`, `bench-monitor` and `bench-restore` measured. Run them on your own hardware to
get its page.

## What was measured

On {machine}, {at}; CPU time of the whole process, default settings.

| | |
|---|---|
| an event (a prediction or a label) with {measured:,} predictions pending | {measured_us:.1f} µs |
| added by ten times as many pending predictions (fit) | {slope:.2f} µs |
| a label whose prediction is no longer in memory | {far:.0f} µs |
| 1,000 models instead of one | × {models:.2f} |
| one more feature in each prediction | {feature:.2f} µs |
| disk per pending prediction (five features) | {bytes} bytes |
| memory of a joiner, at most | {rss} MB |
| an outcome in the monitor | {monitor:.2f} µs |
| a model with outcomes in a batch, in the monitor | {entry:.0f} µs |
| loading without a disk, from the log alone | {restore:,.0f} predictions/s |

## The plan

A joiner is one process on one core, planned at {busy:.0%} of it so that it can catch up. With `p` predictions
pending in one process, an event costs

    us(p) = {base:.2f} + {slope:.2f} · log10(p)        (p ≥ 100,000)

and no process is planned for more than {beyond} times the {measured:,} that were measured. There are
{each} partitions per joiner, because their number is hard to change later ([operations.md](operations.md)).
Half of the events are labels. Brokers are not counted.

| events/s | pending | joiners | partitions | µs per event | disk per joiner | from an empty disk | monitors |
|---|---|---|---|---|---|---|---|
{rows}

- *From an empty disk* is the time to replay everything pending; a checkpoint shortens it to what came
  since.
- Memory is the same in every row: pending predictions are in RocksDB, whose cache is bounded, and so is
  what the joiner keeps in memory beside it.
- All outcomes of one model pass one monitor, which limits a model to {one_model:,.0f} outcomes/s. With
  many models the limit is how many have outcomes in each batch: a monitor handles {batches:,.0f} such
  entries a second.
- The table is for predictions with five features; add {feature:.2f} µs per event for each further one.
"""


def page(costs: Costs) -> str:
    return _PAGE.format(
        machine=costs.machine,
        at=costs.at,
        measured=costs.measured_pending,
        measured_us=costs.join_us(costs.measured_pending),
        base=costs.base_us,
        slope=costs.slope_us,
        far=costs.far_us,
        models=costs.models_ratio,
        feature=costs.feature_us,
        bytes=costs.bytes_per_pending,
        rss=costs.rss_mb,
        monitor=costs.monitor_us,
        entry=costs.entry_us,
        batches=1e6 * BUSY / costs.entry_us,
        restore=costs.restore_per_s,
        busy=BUSY,
        beyond=BEYOND_MEASURED,
        each=PARTITIONS_PER_INSTANCE,
        one_model=BUSY / costs.monitor_us * 1e6,
        rows="\n".join(_row(costs, rate, pending) for rate in RATES for pending in PENDING),
    )


def _row(costs: Costs, rate: int, pending: int) -> str:
    one = plan(costs, rate, pending)
    cells = (
        f"{rate:,}", f"{pending:,}", one.instances, one.partitions, f"{one.event_us:.1f}",
        f"{one.disk_gb:.1f} GB", _minutes(one.restore_min), one.monitors,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _minutes(minutes: float) -> str:
    return f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min"


def main() -> None:
    results = {name: read(name) for name in ("scale", "monitor", "restore")}
    missing = [name for name, result in results.items() if result is None]
    if missing:
        raise SystemExit(f"run these first: {', '.join(f'make bench-{name}' for name in missing)}")
    PAGE.write_text(page(costs_of(**{name: result or {} for name, result in results.items()})), "utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
