"""How the joiner trades latency, memory and cost, and what it tells of itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from .join_store import StoreTuning


@dataclass(frozen=True, slots=True)
class JoinTuning:
    """The defaults suit one process on one core, below a gigabyte, at any rate.

    A batch is one transaction: it takes what has come, up to ``max_batch`` records, and waits ``linger_s``
    for more after the first. Longer: fewer transactions; shorter: outcomes are seen sooner. State is written
    behind after ``flush_interval_s`` or ``flush_ids`` changed ids: longer intervals write less, and replay
    more after a crash. ``memory_ids`` are held in memory (about 1 kB each), the rest is in RocksDB.
    """

    max_batch: int = 10_000
    linger_s: float = 0.02
    flush_interval_s: float = 5.0
    flush_ids: int = 50_000
    memory_ids: int = 300_000
    store: StoreTuning = field(default_factory=StoreTuning)


@dataclass(slots=True)
class JoinStats:
    """Counters since the start, and where things stand; written by the joiner, read by whoever reports."""

    records: int = 0
    outcomes: int = 0
    dead_letters: int = 0
    rerouted: int = 0
    batches: int = 0
    aborts: int = 0
    replayed: int = 0
    partitions: int = 0
    restoring: int = 0
    lag: int = 0
