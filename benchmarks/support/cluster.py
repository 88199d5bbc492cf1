"""The Kafka that a benchmark runs on, and topics of its own on it."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.cluster.topics import apply_topics
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.streams.kafka.connection import Connection

PARTITIONS = 2


@contextmanager
def cluster(bootstrap: str | None = None) -> Generator[str]:
    """Bootstrap servers of the cluster named, or of an embedded one that ends with the block."""
    if bootstrap:
        yield bootstrap
        return
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder), heap_mb=512) as broker:
        yield broker.bootstrap_servers


def deployment(models: int = 1) -> Deployment:
    """``late``, or ``late-0`` … with the classes that ``events`` writes."""
    names = model_names(models)
    return Deployment(models={name: ModelSpec(classes=("late", "on_time")) for name in names})


def model_names(models: int) -> list[str]:
    return ["late"] if models == 1 else [f"late-{i}" for i in range(models)]


def fresh(bootstrap: str, *, models: int = 1, partitions: int = PARTITIONS) -> Connection:
    """A prefix nobody has used, with the catalogue's topics and the specs of ``models``."""
    # What fails raises; librdkafka's own lines would only tell that the broker has gone at the end.
    connection = Connection(bootstrap, f"bench-{uuid.uuid4().hex[:8]}.", {"log_level": "2"})
    apply_topics(connection, data_partitions=partitions, model_partitions=partitions)
    apply_deployment(connection, deployment(models))
    return connection
