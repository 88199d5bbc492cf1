"""How a role reaches Kafka: one value that makes all librdkafka configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from ...schemas.topics import Topic
from .log_limit import librdkafka_log

ConfigValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the cluster is. ``overrides`` are any librdkafka settings (SASL, TLS), left out of ``repr``."""

    bootstrap_servers: str
    prefix: str = "driftloop."
    overrides: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def topic(self, topic: Topic) -> str:
        """The topic's name on this cluster."""
        return topic.full_name(self.prefix)

    def group(self, name: str) -> str:
        """A consumer group's name on this cluster."""
        return f"{self.prefix}{name}"

    def client(self, **settings: ConfigValue) -> dict[str, ConfigValue]:
        """Settings shared by producers, consumers and admin clients; the keyword ``a_b`` means ``a.b``."""
        config: dict[str, ConfigValue] = {
            "bootstrap.servers": self.bootstrap_servers,
            "log_level": 4,
            # Else librdkafka writes to stderr itself, without a limit. (The client's types know no logger.)
            "logger": cast("ConfigValue", librdkafka_log),
        }
        config.update(self.overrides)
        config.update({name.replace("_", "."): value for name, value in settings.items()})
        return config

    def producer(self, **settings: ConfigValue) -> dict[str, ConfigValue]:
        """Settings of an idempotent producer that partitions as Java does (murmur2 of the key)."""
        base: dict[str, ConfigValue] = {
            "partitioner": "murmur2_random",
            "enable_idempotence": True,
            "compression_type": "lz4",
        }
        return self.client(**(base | settings))

    def transactional(self, transactional_id: str, **settings: ConfigValue) -> dict[str, ConfigValue]:
        """Settings of a transactional producer; a restart under the same id fences its predecessor."""
        base: dict[str, ConfigValue] = {
            "transactional_id": f"{self.prefix}{transactional_id}",
            "transaction_timeout_ms": 10_000,
            # Closing idle ones ends librdkafka's wait for a lost coordinator (its issues 5456, 5511).
            "connections_max_idle_ms": 10_000,
            "retry_backoff_ms": 5,
        }
        return self.producer(**(base | settings))

    def consumer(self, group: str, **settings: ConfigValue) -> dict[str, ConfigValue]:
        """Settings of a read_committed consumer without auto-commit, with the classic range assignor."""
        base: dict[str, ConfigValue] = {
            "group_id": self.group(group),
            "group_protocol": "classic",
            "partition_assignment_strategy": "range",
            "session_timeout_ms": 6_000,
            "heartbeat_interval_ms": 2_000,
            "isolation_level": "read_committed",
            "enable_auto_commit": False,
            "enable_partition_eof": True,
            "auto_offset_reset": "earliest",
            "allow_auto_create_topics": False,
            "fetch_wait_max_ms": 50,
        }
        return self.client(**(base | settings))
