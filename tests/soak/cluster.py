"""The three brokers, each behind a network: killed, frozen, cut off, brought back; never two at once."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from driftloop.infra.broker.embedded import EmbeddedBroker

from tests.soak.plan import ALL_NODES, Fault
from tests.support.kafka.late_network import END_TXN, PRODUCE, TXN_OFFSET_COMMIT, LateNetwork
from tests.support.kafka.network_faults import FaultyGate

NODES = 3
_HEAP_MB = 320
_KEYS = {"EndTxn": END_TXN, "TxnOffsetCommit": TXN_OFFSET_COMMIT, "Produce": PRODUCE}
_MOST_DELAY_S = 5.0
_LATE_S = (0.12, 2.0)  # odd and even faults: within the next transaction, or long after


class Cluster:
    """Replication 3, two in sync: any one node may be lost. One fault at a time, in a thread."""

    def __init__(self, data: Path, seed: int, *, network: bool = False) -> None:
        self._seed, self._network = seed, network
        self._gates: list[FaultyGate] = []
        self._stack = ExitStack()
        self._broker = EmbeddedBroker(data, nodes=NODES, heap_mb=_HEAP_MB)
        self._faults = ThreadPoolExecutor(1, "broker-fault")
        self._fault: Future[None] | None = None
        self._admin: AdminClient | None = None

    def __enter__(self) -> Self:
        self._broker.start()
        if self._network:
            self._start_networks()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._faults.shutdown(wait=True)
        self._stack.close()
        self._broker.stop()

    def _start_networks(self) -> None:
        addresses = self._broker.bootstrap_servers.split(",")
        networks = [self._stack.enter_context(LateNetwork(address)) for address in addresses]
        through = dict(zip(addresses, (network.address for network in networks), strict=True))
        for number, network in enumerate(networks):
            network.lead(through)
            self._gates.append(FaultyGate(network, random.Random(f"{self._seed}/{number}")))

    @property
    def bootstrap(self) -> str:
        return self._broker.bootstrap_servers

    @property
    def roles_bootstrap(self) -> str:
        """Where the roles find the brokers: through the networks, if there are any."""
        return ",".join(gate.network.address for gate in self._gates) or self.bootstrap

    @property
    def late_requests(self) -> int:
        return sum(len(gate.held) for gate in self._gates)

    def check(self) -> None:
        """Raise what went wrong in the last fault."""
        if self._fault is not None and self._fault.done():
            self._fault.result()

    def whole(self) -> bool:
        """Whether no fault is under way and every replica of every partition is in sync."""
        self.check()
        if self._fault is not None and not self._fault.done():
            return False
        assert self._admin is not None
        try:
            seen = self._admin.list_topics(timeout=5.0)
        except KafkaException:
            return False  # asked again
        return len(seen.brokers) == NODES and all(
            len(partition.isrs) == len(partition.replicas) and partition.leader >= 0
            for topic in seen.topics.values()
            for partition in topic.partitions.values()
        )

    def kill(self, node: int, seconds: float) -> None:
        """kill -9 now; started again after so many seconds."""
        self._broker.kill_node(node)
        self._fault = self._faults.submit(self._start_later, node, seconds)

    def freeze(self, node: int, seconds: float) -> None:
        pid = self._broker.pids[node]
        os.kill(pid, signal.SIGSTOP)
        self._fault = self._faults.submit(_thaw_later, pid, seconds)

    def disturb(self, fault: Fault) -> None:
        """A fault of the network before one node, or before all; healed after ``hold_s``."""
        gates = self._gates if fault.target == ALL_NODES else [self._gates[fault.target]]
        for gate in gates:
            match fault.action:
                case "cut":
                    gate.network.cut()
                case "deaf":
                    gate.stop(answers=True)
                case "mute":
                    gate.stop(requests=True)
                case "delay":
                    gate.delay(_MOST_DELAY_S)
                case "late":
                    gate.hold(_KEYS[fault.request], _LATE_S[fault.number % 2])
                case "stall":
                    gate.stop(requests=True, answers=True)
                case other:
                    raise ValueError(f"no such fault of a network: {other}")
        cut = fault.action in ("deaf", "mute")
        self._fault = self._faults.submit(_heal_later, gates, fault.hold_s, cut)

    def _start_later(self, node: int, seconds: float) -> None:
        time.sleep(seconds)
        self._broker.start_node(node)


def _thaw_later(pid: int, seconds: float) -> None:
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def _heal_later(gates: list[FaultyGate], seconds: float, cut: bool) -> None:
    time.sleep(seconds)
    for gate in gates:
        gate.heal(cut=cut)
