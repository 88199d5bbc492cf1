"""Every setting that a process of driftloop reads from its environment: ``DRIFTLOOP_…``, nothing else.

A variable that driftloop does not know, or one without effect, is an error: a typing mistake in a deployment
must not silently leave a default in force.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..schemas.errors import SettingsError
from ..streams.kafka.connection import Connection
from .broker.folder import running_address

PREFIX = "DRIFTLOOP_"
KAFKA_PREFIX = f"{PREFIX}KAFKA__"
_TOPIC_CHARACTERS = re.compile(r"[A-Za-z0-9._-]*")  # Kafka's rule for topic names
_UNDERSCORED = ("log_level",)  # librdkafka's settings that environments can carry and that have no dots


class Settings(BaseSettings):
    """The environment of one process. Immutable; secrets are kept out of its repr and of its errors."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    bootstrap_servers: str | None = Field(
        None, description="Kafka's address, host:port[,host:port]; without it `up` and `demo` embed a broker"
    )
    config: Path = Field(Path("driftloop.toml"), description="the models: path of driftloop.toml")
    state_dir: Path = Field(Path(".driftloop"), description="local state, keys, artifacts, broker")
    instance_id: str | None = Field(None, description="this process's name; by default role and host name")
    topic_prefix: str = Field("driftloop.", description="the prefix of every topic's and group's name")
    kafka: dict[str, str] = Field(
        default_factory=dict[str, str],
        repr=False,
        description="any setting of librdkafka: DRIFTLOOP_KAFKA__SASL_USERNAME is sasl.username",
    )
    kafka_jars: Path | None = Field(None, description="a folder with the jars of Apache Kafka 4")
    artifact_store: str | None = Field(
        None, repr=False, description="fsspec URL of the artifact store; <state_dir>/artifacts by default"
    )
    keys_dir: Path | None = Field(None, description="signing and trusted keys; <state_dir>/keys by default")
    hash_key: SecretStr | None = Field(
        None, description="hashes private features: 16 characters or more, the same on every server"
    )
    data_partitions: int = Field(4, ge=1, description="partitions of predictions, labels and outcomes")
    model_partitions: int = Field(4, ge=1, description="partitions of every other topic")
    clock: Literal["append", "event"] = Field(
        "append", description="what `now` is: the log's append time, or (the demo) the event time"
    )
    learners: str = Field(
        "", description="custom learners that the trainer may import: package.module:name,package.module"
    )
    http_host: str = Field("127.0.0.1", description="where `serve` listens")
    http_tokens: SecretStr | None = Field(
        None, description="tokens of the reference server: predict=…,feedback=…,admin=…"
    )
    http_port: int = Field(8080, ge=0, le=65535, description="where `serve` listens; 0 takes a free port")
    spill_mb: int = Field(
        1024, ge=1, description="how much of its events a server keeps on disk at most while Kafka is away"
    )
    spill_drops: Literal["newest", "oldest"] = Field(
        "newest", description="which events are dropped when that is full"
    )

    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="where `join` answers GET /metrics; nowhere by default"
    )
    metrics_host: str = Field("127.0.0.1", description="the address that goes with metrics_port")
    checkpoint_interval_s: int = Field(
        300, ge=0, description="how often a joiner's state is copied to the artifact store, seconds; 0: never"
    )
    checkpoints_kept: int = Field(2, ge=1, description="how many checkpoints are kept of each partition")
    join_cache_mb: int = Field(
        64, ge=8, description="the joiner's block cache of RocksDB, over all its partitions"
    )
    join_memory_ids: int = Field(
        300_000,
        ge=1_000,
        description="ids that the joiner holds in memory, about 1 kB each; the rest is on disk",
    )
    join_linger_ms: int = Field(
        5, ge=0, le=5_000, description="how long the joiner waits for more after a batch's first record"
    )

    _owned: ClassVar[frozenset[str]] = frozenset(
        {*Connection("").consumer(""), *Connection("").transactional("")} - {"log_level"}
    )

    def __init__(self, **values: Any) -> None:
        _refuse_unknown(os.environ, frozenset(type(self).model_fields))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(_problem(details) for details in error.errors())) from None

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, value: str | None) -> str | None:
        for server in (value or "").split(",") if value is not None else ():
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{server!r} is not host:port")
        return value

    @field_validator("topic_prefix", "instance_id")
    @classmethod
    def _fits_into_names(cls, value: str | None) -> str | None:
        if value is not None and not _TOPIC_CHARACTERS.fullmatch(value):
            raise ValueError("may hold letters, digits, '.', '_' and '-' only, since Kafka's names do")
        return value

    @field_validator("kafka", mode="before")
    @classmethod
    def _librdkafka_names(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return dict(_flat(cast("Mapping[str, object]", value)))

    @field_validator("kafka")
    @classmethod
    def _librdkafka_takes_them(cls, value: dict[str, str]) -> dict[str, str]:
        if "bootstrap.servers" in value:
            raise ValueError("set bootstrap.servers through DRIFTLOOP_BOOTSTRAP_SERVERS")
        owned = sorted(cls._owned & value.keys())
        if owned:
            raise ValueError(f"driftloop sets {', '.join(owned)} itself, so that would have no effect")
        if value:
            try:
                AdminClient({"log_level": "3", **value})  # checks names, values and files; connects nowhere
            except KafkaException as error:
                raise ValueError(str(error.args[0].str())) from None
        return value

    def connection(self) -> Connection:
        """The connection to the cluster that is set, or to the embedded broker that runs on ``state_dir``.

        Raises SettingsError if there is neither.
        """
        servers = self.bootstrap_servers or running_address(self.broker_dir())
        if servers is None:
            raise SettingsError(
                "no Kafka cluster: set DRIFTLOOP_BOOTSTRAP_SERVERS to its address, or run `driftloop up` or "
                f"`driftloop broker` (none is running on {self.state_dir})"
            )
        return Connection(servers, self.topic_prefix, self.kafka)

    def instance(self, role: str) -> str:
        """This process's name, with its role, so that roles may share an environment."""
        name = self.instance_id or socket.gethostname()
        return name if name.split("-")[0] == role else f"{role}-{name}"

    def allowed_learners(self) -> frozenset[str]:
        """The custom learners that the trainer may import, by factory or by module."""
        return frozenset(name.strip() for name in self.learners.split(",") if name.strip())

    def broker_dir(self) -> Path:
        """The embedded broker's data folder."""
        return self.state_dir / "broker"

    def store_url(self) -> str:
        """Where artifacts and manifests are kept."""
        return self.artifact_store or str((self.state_dir / "artifacts").absolute())

    def keys_path(self) -> Path:
        """Where signing and trusted keys are kept."""
        return self.keys_dir or self.state_dir / "keys"


def _refuse_unknown(environment: Mapping[str, str], fields: frozenset[str]) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in fields}
    for name in environment:
        variable = name.upper()
        if not variable.startswith(PREFIX) or variable in known or variable.startswith(KAFKA_PREFIX):
            continue
        candidates = [*known]
        if variable.startswith(f"{PREFIX}KAFKA_"):  # one underscore short of a setting of librdkafka
            candidates.append(KAFKA_PREFIX + variable.removeprefix(f"{PREFIX}KAFKA_"))
        near = difflib.get_close_matches(variable, candidates, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"environment variable {name} is unknown to driftloop; did you mean {near}? "
            "Unset it or correct its name."
        )


def _flat(values: Mapping[str, object], parents: tuple[str, ...] = ()) -> list[tuple[str, object]]:
    """``{"sasl": {"username": …}}`` and ``{"sasl_username": …}`` are both ``sasl.username``."""
    found: list[tuple[str, object]] = []
    for name, value in values.items():
        path = (*parents, name.lower())
        if isinstance(value, Mapping):
            found.extend(_flat(cast("Mapping[str, object]", value), path))
        else:
            joined = "_".join(path)
            found.append((joined if joined in _UNDERSCORED else joined.replace("_", "."), value))
    return found


def _problem(details: Mapping[str, Any]) -> str:
    where = "__".join(str(part) for part in cast("tuple[object, ...]", details["loc"]))
    message = str(details["msg"]).removeprefix("Value error, ")
    return f"{PREFIX}{where.upper()}: {message}"
