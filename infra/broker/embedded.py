"""Apache Kafka on loopback without Docker and without an installed Java: the embedded broker.

Each node is one JVM that is broker and controller. The data directory holds everything: a lock, the
cluster's id, one folder of logs per node and the JVMs' output. It is formatted once; topics survive.

On failure: a node that ends by itself is started again with its data by ``tend``, which raises BrokerError
when no majority of the nodes can be kept running.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ...schemas.errors import BrokerError
from ..restarts import shown_exit
from ..settings import Settings
from .config import Node, server_properties
from .folder import announce, lock_folder, unlock_folder, withdraw
from .jars import jars_folder
from .java import Jvm, find_java
from .node_restarts import NodeRestarts
from .ports import listens, place, why_taken
from .security import BrokerSecurity

log = logging.getLogger(__name__)

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
LOG_BYTES = 16 << 20  # a larger log is rotated at the node's next start
# Measured over a start and 1.6 million transactional records: 9 s of CPU with the first compiler alone, 16 s
# with both, and no slower at the end.
_JVM_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_SERVER_CLASS = "kafka.Kafka"
_FORMAT_CLASS = "kafka.tools.StorageTool"
_FEATURES = "bootstrap.checkpoint"  # the versions of Kafka's features at the start


class EmbeddedBroker:
    """A Kafka cluster of ``nodes`` JVMs in ``data_dir``; a context manager, or ``start`` and ``stop``.

    ``port``: the first node's (the next ones count up from it); None takes free ones. ``jars``: a folder
    with Kafka's jars; None takes DRIFTLOOP_KAFKA_JARS or the user's cache. ``security``: TLS, users and ACLs;
    None: everyone on loopback is let in. Raises BrokerError, which says what to do.
    """

    def __init__(
        self,
        data_dir: Path,
        nodes: int = 1,
        port: int | None = None,
        *,
        heap_mb: int = 512,
        jars: Path | None = None,
        security: BrokerSecurity | None = None,
    ) -> None:
        if nodes < 1:
            raise BrokerError(f"a broker needs at least one node, not {nodes}")
        self.data_dir = data_dir
        self._count = nodes
        self._port = port
        self._heap_mb = heap_mb
        self._jars = jars
        self._security = security
        self._nodes: tuple[Node, ...] = ()
        self._jvms: dict[int, Jvm] = {}
        self._restarts = NodeRestarts(nodes, 0.0)
        self._starting: set[int] = set()  # nodes that were started again and do not answer yet
        self._lock: int | None = None
        self._java: tuple[str, ...] = ()

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` of every node. Only while started."""
        if not self._nodes:
            raise BrokerError("the embedded broker is not running: start it first")
        return ",".join(node.address for node in self._nodes)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes with their ports. None unless started."""
        return self._nodes

    @property
    def pids(self) -> dict[int, int]:
        """Process id by node number (from 1), of the nodes that were started and not stopped."""
        return {number: jvm.pid for number, jvm in self._jvms.items()}

    def log_file(self, node: int = 1) -> Path:
        """Where a node's output goes."""
        return self.data_dir / f"node-{node}.log"

    def start(self) -> Self:
        """Start all nodes and return once each of them answers."""
        if self._lock is not None:
            raise BrokerError("this embedded broker is running already")
        jars = jars_folder(self._jars or Settings().kafka_jars)
        self._java = (str(find_java()), "-cp", f"{jars}/*", f"-Xmx{self._heap_mb}m", *_JVM_FLAGS)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.data_dir)
        try:
            self._nodes = place(self._count, self._port)
            cluster = self._cluster_id()
            for node in self._nodes:
                self._write_properties(node)
            self._format(cluster)
            for node in self._nodes:
                self._spawn(node)
            self._await_ready(self._nodes)
            self._restarts = NodeRestarts(self._count, time.monotonic())
            announce(self.data_dir, self.bootstrap_servers)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop every node, and kill those that do not stop in time."""
        if self._lock is None:
            return
        withdraw(self.data_dir)
        for jvm in self._jvms.values():
            jvm.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for jvm in self._jvms.values():
            if not jvm.wait(max(0.0, deadline - time.monotonic())):
                jvm.signal(signal.SIGKILL)
                jvm.wait(STOP_TIMEOUT_S)
        self._jvms.clear()
        self._starting.clear()
        self._nodes = ()
        unlock_folder(self._lock)
        self._lock = None

    def kill_node(self, node: int) -> None:
        """Kill a node, as a power cut would."""
        jvm = self._jvms.pop(node)
        jvm.signal(signal.SIGKILL)
        jvm.wait(STOP_TIMEOUT_S)

    def start_node(self, node: int) -> None:
        """Restart a node that was killed, on its old ports, and return once it answers."""
        if node in self._jvms:
            raise BrokerError(f"node {node} is running already")
        placed = self._nodes[node - 1]
        self._spawn(placed)
        self._await_ready((placed,))

    def tend(self) -> None:
        """Start nodes again that have ended by themselves; call it often, it does not wait.

        Raises BrokerError when so many keep ending that the rest is no majority. Nodes that ``kill_node`` has
        stopped are left alone.
        """
        now = time.monotonic()
        for number, jvm in list(self._jvms.items()):
            node = self._nodes[number - 1]
            if (code := jvm.exit_code()) is None:
                if number in self._starting and listens(node):
                    self._starting.discard(number)
                    log.info("node %d serves again", number)
                continue
            if self._restarts[number].due(now):
                self._restarts[number].started(now)
                taken = why_taken(node)
                if taken is None:
                    self._starting.add(number)
                    self._spawn(node)
                    continue
                self._note_end(number, f"cannot be started: {taken}", now)
            else:
                self._note_end(number, f"has ended with {shown_exit(code)}", now)
        if hopeless := self._restarts.hopeless(now):
            nodes = ", ".join(map(str, hopeless))
            raise BrokerError(
                f"the embedded broker has no majority left: of its nodes 1 to {self._count}, {nodes} cannot "
                f"be kept running; {self._why(hopeless[-1])}"
            )

    def _note_end(self, number: int, what: str, now: float) -> None:
        pause_s = self._restarts[number].ended(now)
        if pause_s is not None:
            log.info("node %d %s; it is started again in %g s", number, what, pause_s)

    def _why(self, number: int) -> str:
        return why_taken(self._nodes[number - 1]) or _last_error(self.log_file(number))

    def _failed_node(self) -> int | None:
        """The number of a node that has ended unexpectedly, if there is one."""
        return next((number for number, jvm in self._jvms.items() if jvm.exit_code() is not None), None)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _cluster_id(self) -> str:
        """The stored id, or a new one."""
        file = self.data_dir / "cluster.id"
        if file.is_file():
            return file.read_text("utf-8").strip()
        if len(list(self.data_dir.glob("node-*/"))) > 0:
            raise BrokerError(f"{self.data_dir} has logs but no cluster.id: name another folder")
        cluster = _random_id()
        file.write_text(cluster, "utf-8")
        return cluster

    def _folder(self, node: Node) -> Path:
        return self.data_dir / f"node-{node.number}"

    def _properties(self, node: Node) -> Path:
        return self.data_dir / f"node-{node.number}.properties"

    def _write_properties(self, node: Node) -> None:
        text = server_properties(node, self._nodes, self._folder(node), self._security)
        file = self._properties(node)
        file.touch(mode=0o600)  # it may hold the administrator's password
        file.write_text(text, "utf-8")

    def _format(self, cluster: str) -> None:
        """Format a new cluster: one node with Kafka's tool, the others as copies with ids of their own."""
        new = [node for node in self._nodes if not (self._folder(node) / "meta.properties").is_file()]
        if not new:
            return
        if len(new) < len(self._nodes):
            raise BrokerError(
                f"{self.data_dir} was made for {len(self._nodes) - len(new)} node(s), not {self._count}: "
                "name another folder, since a quorum cannot grow this way"
            )
        first, *others = new
        formatted = subprocess.run(
            [*self._java, _FORMAT_CLASS, "format", "--cluster-id", cluster,
             "--config", str(self._properties(first)),
             *(() if self._security is None else self._security.format_arguments())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=START_TIMEOUT_S, check=False,
        )  # fmt: skip
        if formatted.returncode != 0:
            raise BrokerError(f"{self.data_dir} cannot be formatted: {formatted.stdout.strip()}")
        for node in others:
            folder = self._folder(node)
            folder.mkdir(exist_ok=True)
            shutil.copy(self._folder(first) / _FEATURES, folder / _FEATURES)
            meta = f"version=1\ncluster.id={cluster}\nnode.id={node.number}\ndirectory.id={_random_id()}\n"
            (folder / "meta.properties").write_text(meta, "utf-8")

    def _spawn(self, node: Node) -> None:
        assert self._lock is not None
        log = self.log_file(node.number)
        if log.is_file() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        command = [
            *self._java,
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
            "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
            "-Djava.awt.headless=true",
            _SERVER_CLASS,
            str(self._properties(node)),
        ]
        with log.open("ab") as output:
            # The JVM inherits the lock: the folder stays locked until the last node has really ended.
            self._jvms[node.number] = Jvm(command, output, (self._lock,))

    def _await_ready(self, nodes: tuple[Node, ...]) -> None:
        """Return once every node answers and knows all others that should run."""
        deadline = time.monotonic() + START_TIMEOUT_S
        for node in nodes:
            while not listens(node):
                self._check_alive(deadline)
                time.sleep(0.02)
        for node in nodes:
            secured = {} if self._security is None else self._security.admin_config()
            admin = AdminClient({"bootstrap.servers": node.address, "log_level": 0, **secured})
            while True:
                with contextlib.suppress(KafkaException):  # not ready yet: retried until the deadline
                    if len(admin.list_topics(timeout=1.0).brokers) >= len(self._jvms):
                        break
                self._check_alive(deadline)
                time.sleep(0.02)

    def _check_alive(self, deadline: float) -> None:
        failed = self._failed_node()
        if failed is None and time.monotonic() < deadline:
            return
        node = failed or next(iter(self._jvms))
        log = self.log_file(node)
        what = "ended while starting" if failed else f"does not answer after {START_TIMEOUT_S:g} s"
        raise BrokerError(f"node {node} of the embedded broker {what}; {_last_error(log)} (log: {log})")


def _random_id() -> str:
    """A random UUID as Kafka writes it, never with a leading dash, which would look like an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _last_error(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-200:]
    errors = [line for line in lines if "ERROR" in line or "Exception" in line or "Error occurred" in line]
    return f"its last error: {errors[-1].strip()}" if errors else "its log has no error"
