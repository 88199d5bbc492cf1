"""Fixtures for every test: one Kafka for the session, and topics of its own for each test that asks."""

from __future__ import annotations

import os

# Before anything imports numpy or ONNX: two cores are shared with the broker.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests state their settings; the developer's environment must not reach them or their child processes.
TEST_BOOTSTRAP = os.environ.pop("DRIFTLOOP_TEST_BOOTSTRAP", None)
for _name in [
    name for name in os.environ if name.startswith("DRIFTLOOP_") and name != "DRIFTLOOP_KAFKA_JARS"
]:
    del os.environ[_name]

# ruff: noqa: E402  (what follows is imported into the environment that these lines leave)
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.settings import Settings
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient

from tests.support.cli import environment_of
from tests.support.full_disk import MISSING, FullDisk
from tests.support.kafka.broker import embedded
from tests.support.kafka.late_network import LateNetwork
from tests.support.kafka.topics import new_settings, own_topics
from tests.support.monitor.progress import MonitorProgress
from tests.support.serve.bench import ServingBench

BROKERS = {"broker", "own_broker"}  # fixtures that start one


def pytest_configure(config: pytest.Config) -> None:
    # An exception in a thread or a finaliser fails the test that it happened in.
    for kind in ("PytestUnhandledThreadExceptionWarning", "PytestUnraisableExceptionWarning"):
        config.addinivalue_line("filterwarnings", f"error::pytest.{kind}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test that uses a broker, through whatever fixture, as an integration test."""
    for item in items:
        if isinstance(item, pytest.Function) and BROKERS & {*item.fixturenames}:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the session's embedded broker, or the one in DRIFTLOOP_TEST_BOOTSTRAP."""
    if TEST_BOOTSTRAP:
        yield TEST_BOOTSTRAP
        return
    with embedded(tmp_path_factory.mktemp("broker")) as started:
        yield started.bootstrap_servers


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A broker of the test's own, to be stopped and started."""
    with embedded(tmp_path / "broker") as started:
        yield started


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nothing answers for as long as the test lasts."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture
def settings(broker: str, tmp_path: Path) -> Settings:
    """Settings of a deployment of the test's own: a new topic prefix, an empty state folder, no topics."""
    return new_settings(broker, tmp_path)


@pytest.fixture
def in_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's own process find its deployment as others do: in the environment."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def connection(settings: Settings) -> Connection:
    """How the test's roles and clients reach Kafka. No topics yet."""
    return settings.connection()


@pytest.fixture
def topics(settings: Settings) -> Iterator[Connection]:
    """The same connection, with all topics of the catalogue; they are deleted afterwards."""
    with own_topics(settings) as connection:
        yield connection


@pytest.fixture
def network(broker: str) -> Iterator[LateNetwork]:
    """A network of the test's own before the broker."""
    with LateNetwork(broker) as between:
        yield between


@pytest.fixture
def bench(topics: Connection, settings: Settings) -> ServingBench:
    """Keys, an artifact store and topics: what publishes models for a server under test."""
    return ServingBench(topics, settings.state_dir)


@pytest.fixture
def client(topics: Connection) -> Iterator[EventClient]:
    """A client that sends events to the test's topics, closed afterwards."""
    with EventClient(topics) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FullDisk]:
    """A disk of the test's own over ``tmp_path / "disk"``, to be filled."""
    with contextlib.closing(FullDisk(tmp_path / "disk")) as mounted:
        if not mounted.available:
            pytest.skip(MISSING)
        yield mounted


@pytest.fixture
def anyio_backend() -> str:
    """Run tests that are coroutines on asyncio only."""
    return "asyncio"


@pytest.fixture
def progress(topics: Connection) -> Iterator[MonitorProgress]:
    """How far the test's monitor has come on the vitals."""
    with contextlib.closing(MonitorProgress(topics)) as reading:
        yield reading
