"""How the joiner trades latency, memory and cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JoinTuning:
    """The defaults suit one process on one core, below a gigabyte, at any rate.

    A batch is one transaction. It takes what has come, up to ``max_batch`` records, and waits ``linger_s``
    for more after the first: longer means fewer transactions, shorter means outcomes are seen sooner.

    Flow control: while one topic of a partition has more than ``backlog`` records to come, later records of
    the other topic are held; beyond ``max_held`` of them that topic is paused.

    State is written behind after ``flush_interval_s`` or ``flush_ids`` changed ids: longer intervals write
    less, and replay more after a crash. ``memory_ids`` are kept in memory (about 1 kB each), the rest is in
    RocksDB, with a block cache of ``cache_mb``. Checkpoints go to the artifact store every
    ``checkpoint_interval_s``: a new host replays what came since.
    """

    max_batch: int = 10_000
    linger_s: float = 0.005
    backlog: int = 1_000
    max_held: int = 50_000
    flush_interval_s: float = 2.0
    flush_ids: int = 50_000
    memory_ids: int = 300_000
    checkpoint_interval_s: float = 300.0
    checkpoints_kept: int = 2
    cache_mb: int = 64
