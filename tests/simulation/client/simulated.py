"""What the clients of one run share, and what each of them is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from driftloop.schemas.partition import partition_of

from tests.simulation.broker.cluster import SimulatedCluster
from tests.simulation.client.metadata import ClusterMetadata, TopicMetadata
from tests.simulation.clock import Process, VirtualWorld
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


@contextmanager
def present(simulation: Simulation) -> Generator[None]:
    """Let clients that are made meanwhile belong to this simulation."""
    _present.append(simulation)
    try:
        yield
    finally:
        _present.pop()


class Simulated:
    """A client: it belongs to the process that made it."""

    def __init__(self) -> None:
        self.sim = _present[-1]
        self.world = self.sim.world
        self.process = self.world.current
        self.world.check()
