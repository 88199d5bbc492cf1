"""The three brokers: killed, frozen, brought back; never two at once."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from driftloop.infra.broker.embedded import EmbeddedBroker

NODES = 3
_HEAP_MB = 320


class Cluster:
    """Replication 3, two in sync: any one node may be lost. One fault at a time, in a thread."""

    def __init__(self, data: Path) -> None:
        self._broker = EmbeddedBroker(data, nodes=NODES, heap_mb=_HEAP_MB)
        self._faults = ThreadPoolExecutor(1, "broker-fault")
        self._fault: Future[None] | None = None
        self._admin: AdminClient | None = None

    def __enter__(self) -> Self:
        self._broker.start()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._faults.shutdown(wait=True)
        self._broker.stop()

    @property
    def bootstrap(self) -> str:
        return self._broker.bootstrap_servers

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

    def _start_later(self, node: int, seconds: float) -> None:
        time.sleep(seconds)
        self._broker.start_node(node)


def _thaw_later(pid: int, seconds: float) -> None:
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
