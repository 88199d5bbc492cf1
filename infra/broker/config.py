"""The broker's configuration: one source for the embedded broker and for docker-compose.yml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .security import LISTENER, BrokerSecurity

KAFKA_VERSION = "4.3.1"

# What driftloop asks of any cluster it starts itself (tests/infra/deploy/test_compose.py holds
# docker-compose.yml to it).
BROKER_SETTINGS: dict[str, str] = {
    "auto.create.topics.enable": "false",  # only `driftloop topics apply` creates topics
    "log.message.timestamp.type": "LogAppendTime",  # driftloop's `now` is the log's append time
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
}

# Kafka's defaults are for a dedicated machine; these are for a laptop that runs everything else too.
SMALL_MACHINE: dict[str, str] = {
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",  # 128 MiB of heap by default, taken at the start
    "log.index.size.max.bytes": "1048576",  # mapped whole for every segment
    "log.segment.delete.delay.ms": "1000",
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "1000",
}


def replication(nodes: int) -> dict[str, str]:
    """Settings of replication: three copies, two of them in sync, if there are nodes for it.

    Also how soon a dead writer's open transaction is aborted, since it holds back readers. If a partition has
    no leader at that moment, Kafka 4.3.1 takes it for deleted: nothing marks its records as aborted, and the
    writer's next commit commits them. A killed node leads its partitions again only after its former session
    has ended, so a single node aborts nothing before that (tests/infra/broker/test_embedded.py).
    """
    copies, in_sync = (3, 2) if nodes >= 3 else (1, 1)
    return {
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000" if nodes >= 3 else "15000",
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(in_sync),
    }


@dataclass(frozen=True, slots=True)
class Node:
    """One process that is broker and controller, with its two ports on loopback."""

    number: int
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def server_properties(
    node: Node, nodes: tuple[Node, ...], log_dir: Path, security: BrokerSecurity | None = None
) -> str:
    """The node's server.properties (KRaft, combined roles, a static quorum of all nodes).

    Without ``security`` every process that reaches loopback may do everything.
    """
    listener = "PLAINTEXT" if security is None else LISTENER
    quorum = ",".join(f"{other.number}@127.0.0.1:{other.controller_port}" for other in nodes)
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "controller.quorum.voters": quorum,
        "listeners": f"{listener}://{node.address},CONTROLLER://127.0.0.1:{node.controller_port}",
        "advertised.listeners": f"{listener}://{node.address}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_dir.absolute().as_posix(),
        **BROKER_SETTINGS,
        **SMALL_MACHINE,
        **replication(len(nodes)),
        **({} if security is None else security.listener_settings()),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
