"""Puts the simulated clients and clock in the place of the real ones, in every module of ``streams``.

The shells run as they are: each module's own names for confluent-kafka's clients and for ``time`` are
exchanged for the duration of a run.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from confluent_kafka import admin
from driftloop.schemas.partition import partition_of

from tests.simulation.broker.cluster import SimulatedCluster
from tests.simulation.client.metadata import ClusterMetadata, TopicMetadata
from tests.simulation.clock import Process, VirtualTime, VirtualWorld
from tests.simulation.network import Network


class Simulation:
    """What the clients of one run share."""

    def __init__(
        self, world: VirtualWorld, network: Network, cluster: SimulatedCluster, *, stalls: float = 0.0
    ) -> None:
        """``stalls``: how likely a consumer's partition waits when something new is there."""
        self.world, self.network, self.cluster, self.stalls = world, network, cluster, stalls
        self.calm_at = network.weather.calm_at
        self.given_up: set[int] = set()  # transactions that their clients have aborted
        self.acknowledged: set[int] = set()  # transactions of which the client knows that they committed
        self._transactions = 0
        self._producers: dict[tuple[Process, str], Any] = {}

    def new_transaction(self) -> int:
        self._transactions += 1
        return self._transactions

    def renew(self, process: Process, name: str, producer: Any) -> None:
        """A process makes another producer of the same name: the one before is destroyed."""
        before = self._producers.get((process, name))
        if before is not None:
            before.replaced = True
        self._producers[process, name] = producer

    def partition(self, topic: str, key: bytes | None, partition: int) -> int:
        if partition >= 0:
            return partition
        count = self.cluster.partitions[topic]
        return partition_of(key, count) if key is not None else self.world.rng.randrange(count)

    def metadata(self, topic: str | None) -> ClusterMetadata:
        self.world.sleep(self.network.latency() * 2)
        topics = [topic] if topic is not None else list(self.cluster.partitions)
        return ClusterMetadata(
            {one: TopicMetadata(dict.fromkeys(range(self.cluster.partitions[one]))) for one in topics}
        )


_present: list[Simulation] = []


class Simulated:
    """A client: it belongs to the process that made it."""

    def __init__(self) -> None:
        self.sim = _present[-1]
        self.world = self.sim.world
        self.process = self.world.current
        self.world.check()


class _NoCollection:
    """Stands in for ``gc``: a run is short, and its process is not the joiner's own."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_arguments: False if name == "isenabled" else None


@contextmanager
def installed(simulation: Simulation, others: dict[Any, Any]) -> Generator[None]:
    """Run with this simulation. ``others``: real object → what stands in for it."""
    from tests.simulation.client.admin import AdminClient
    from tests.simulation.client.consumer import Consumer
    from tests.simulation.client.producer import Producer

    stand_ins: list[tuple[Any, Any]] = [
        (confluent_kafka.Consumer, Consumer),
        (confluent_kafka.Producer, Producer),
        (admin.AdminClient, AdminClient),
        (time, VirtualTime(simulation.world)),
        (gc, _NoCollection()),
        *others.items(),
    ]
    by_id = {id(real): stand_in for real, stand_in in stand_ins}
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("driftloop.streams."):
            names = vars(module)
            for attribute, value in list(names.items()):
                if id(value) in by_id:
                    changed.append((names, attribute, value))
                    names[attribute] = by_id[id(value)]
    _present.append(simulation)
    try:
        yield
    finally:
        _present.pop()
        for names, attribute, value in changed:
            names[attribute] = value
