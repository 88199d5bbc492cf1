"""How the joiner trades latency, memory and cost, and what it tells of itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...schemas.joining import RestoreSource
from .state.store import StoreTuning


@dataclass(frozen=True, slots=True)
class JoinTuning:
    """The defaults suit one process on one core, below a gigabyte, at any rate.

    A batch is one transaction: it takes what has come, up to ``max_batch`` records, and waits ``linger_s``
    for more after the first. Longer: fewer transactions; shorter: outcomes are seen sooner. While one topic
    of a partition has more than ``backlog`` records to come, what was appended to the other one later waits:
    ``max_held`` records in memory, then that topic is paused. State is written behind after
    ``flush_interval_s`` or ``flush_ids`` changed ids: longer intervals write less, and replay more after a
    crash. ``memory_ids`` are held in memory (about 1 kB each), the rest is in RocksDB. Checkpoints go to the
    artifact store every ``checkpoint_interval_s``: a new host replays what came since.
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
    store: StoreTuning = field(default_factory=StoreTuning)


@dataclass(slots=True)
class RestoreStats:
    """A partition being restored: offsets of inputs and outcomes replayed, of those that must be.

    ``records``: what was read, ``recalled`` of it outcomes. ``source``: what it began with; ``fetched``:
    bytes of a checkpoint. ``took_s`` is None until it is done.
    """

    began_at: float
    source: RestoreSource = "disk"
    done: int = 0
    total: int = 0
    records: int = 0
    recalled: int = 0
    fetched: int = 0
    took_s: float | None = None

    def rate(self, now: float) -> float:
        """Records per second so far; ``now`` on the monotonic clock of ``began_at``."""
        took_s = now - self.began_at if self.took_s is None else self.took_s
        return self.records / took_s if took_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """A partition's newest checkpoint. ``uploaded``: the bytes of it that were new. ``stalled_s``: how long
    the loop stood still for it; ``took_s``: how long the upload took beside it."""

    written_ms: int
    offsets: int
    size: int
    uploaded: int
    stalled_s: float
    took_s: float


@dataclass(slots=True)
class JoinStats:
    """Counters since the start, and where things stand; written by the joiner, read by whoever reports.

    ``held``: fetched records of topics that are ahead, which wait for the other topic's backlog; ``pauses``:
    how often a topic was not read further because too many of its records were held.
    By partition: ``restores`` (the last one each) and ``checkpoints``; ``gaps``, by topic and partition: the
    records that retention removed before they were read.
    """

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
    held: int = 0
    pauses: int = 0
    checkpoints_failed: int = 0
    restores: dict[int, RestoreStats] = field(default_factory=dict[int, RestoreStats])
    checkpoints: dict[int, CheckpointStats] = field(default_factory=dict[int, CheckpointStats])
    gaps: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
