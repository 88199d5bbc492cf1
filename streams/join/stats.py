"""What the joiner reports of itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...schemas.joining import RestoreSource
from .state.books import Books


@dataclass(slots=True)
class RestoreStats:
    """A partition being restored: ``done`` of ``total`` offsets of inputs and outcomes were replayed.

    ``records``: how many were read, ``outcomes`` among them. ``source``: what it began with; ``fetched``:
    bytes of a checkpoint. ``took_s`` is None until it is done.
    """

    began_at: float
    source: RestoreSource = "disk"
    done: int = 0
    total: int = 0
    records: int = 0
    outcomes: int = 0
    fetched: int = 0
    took_s: float | None = None

    def rate(self, now: float) -> float:
        """Return records per second so far; ``now`` on the monotonic clock of ``began_at``."""
        took_s = now - self.began_at if self.took_s is None else self.took_s
        return self.records / took_s if took_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """A partition's newest checkpoint.

    ``uploaded``: the bytes of it that were new. ``stalled_s``: how long the loop stood still for it;
    ``took_s``: how long the upload took in the background.
    """

    written_ms: int
    offsets: int
    size: int
    uploaded: int
    stalled_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class DataLoss:
    """How many records of a topic retention removed before they were read."""

    topic: str
    partition: int
    missing: int


@dataclass(slots=True)
class JoinStats:
    """Counters since the start, and where things stand; written by the joiner, read for metrics.

    ``held``: fetched records that flow control holds; ``pauses``: how often a topic was paused because too
    many of its records were held. By partition: ``restores`` (the last one each), ``checkpoints``, and the
    ``books`` of those that are live.
    """

    records: int = 0
    outcomes: int = 0
    dead_letters: int = 0
    misrouted: int = 0
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
    books: dict[int, Books] = field(default_factory=dict[int, Books])
    data_loss: list[DataLoss] = field(default_factory=list[DataLoss])
