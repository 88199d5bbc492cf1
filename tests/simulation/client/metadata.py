"""What clients are told of the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TopicMetadata:
    partitions: dict[int, None]
    error: None = None


@dataclass(frozen=True)
class ClusterMetadata:
    topics: dict[str, TopicMetadata]
    brokers: dict[int, None] = field(default_factory=lambda: {0: None})
    cluster_id: str = "simulated"
