"""What ``up`` and ``demo`` share: a cluster with topics and specs, and the roles that run on it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from ..schemas.spec.model import Deployment
from .broker.embedded import EmbeddedBroker
from .cluster.topics import TopicsReport, apply_topics
from .control.specs import ApplyReport, apply_deployment
from .settings import Settings
from .supervisor import RoleProcess


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cluster that is ready for the roles."""

    settings: Settings
    topics: TopicsReport
    specs: ApplyReport
    broker: EmbeddedBroker | None

    def tend_broker(self) -> None:
        """Keep the embedded broker running, if there is one. Raises BrokerError when that cannot be done."""
        if self.broker is not None:
            self.broker.tend()


@contextmanager
def prepared_cluster(settings: Settings, deployment: Deployment) -> Generator[Prepared]:
    """The user's cluster, or the embedded broker if none is set; with topics and specs applied."""
    if settings.bootstrap_servers is not None:
        yield _prepare(settings, deployment, None)
        return
    with EmbeddedBroker(settings.state_dir / "broker") as broker:
        reached = settings.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
        yield _prepare(reached, deployment, broker)


def _prepare(settings: Settings, deployment: Deployment, broker: EmbeddedBroker | None) -> Prepared:
    connection = settings.connection()
    topics = apply_topics(
        connection, data_partitions=settings.data_partitions, model_partitions=settings.model_partitions
    )
    return Prepared(settings, topics, apply_deployment(connection, deployment), broker)


def role_environment(settings: Settings, name: str) -> dict[str, str]:
    """The environment of a role's process: where the cluster is and who it is. The rest is inherited."""
    assert settings.bootstrap_servers is not None
    return {
        "DRIFTLOOP_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "DRIFTLOOP_STATE_DIR": str(settings.state_dir),
        "DRIFTLOOP_TOPIC_PREFIX": settings.topic_prefix,
        "DRIFTLOOP_CLOCK": settings.clock,
        "DRIFTLOOP_INSTANCE_ID": f"{name}-0",
        "OMP_NUM_THREADS": "1",
    }


def loop_roles(settings: Settings) -> tuple[RoleProcess, ...]:
    """The joiner, the monitor and the trainer."""
    return tuple(
        RoleProcess(name, (name,), role_environment(settings, name)) for name in ("join", "monitor", "train")
    )


def server_role(settings: Settings, models: tuple[str, ...]) -> RoleProcess:
    """The reference server, serving ``models``."""
    listen = ("--host", settings.http_host, "--port", str(settings.http_port))
    return RoleProcess("serve", ("serve", *models, *listen), role_environment(settings, "serve"))
