from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Any, cast

import pytest
import yaml
from driftloop.infra.broker.config import BROKER_SETTINGS, KAFKA_VERSION, replication
from driftloop.infra.settings import Settings

from tests.support.paths import ROOT

ROLES = ("join", "monitor", "train", "serve")
# What differs from the embedded broker because containers have names, not loopback ports.
PLACEMENT = {f"KAFKA_{name}" for name in (
    "HEAP_OPTS", "NODE_ID", "PROCESS_ROLES", "CONTROLLER_QUORUM_VOTERS", "CONTROLLER_LISTENER_NAMES",
    "INTER_BROKER_LISTENER_NAME", "LISTENERS", "ADVERTISED_LISTENERS", "LISTENER_SECURITY_PROTOCOL_MAP",
    "LOG_DIRS",
)}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8")))


def test_the_image_is_the_embedded_brokers_version(compose: dict[str, Any]) -> None:
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_the_broker_has_the_embedded_brokers_settings_and_no_others(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    asked = {
        name: value
        for name, value in environment.items()
        if name.startswith("KAFKA_") and name not in PLACEMENT
    }
    wanted = BROKER_SETTINGS | replication(1)
    assert asked == {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in wanted.items()}


@pytest.mark.parametrize("service", ["apply", *ROLES])
def test_the_environment_of_every_service_is_understood(
    compose: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in compose["services"][service]["environment"].items():
        assert isinstance(value, str), f"{name} must be quoted: compose passes text"
        monkeypatch.setenv(name, value)
    settings = Settings()  # refuses what it does not know
    assert settings.bootstrap_servers == "kafka:19092"
    assert str(settings.state_dir).startswith("/")
    if service in ROLES:
        assert settings.instance(service) == f"{service}-0"


@pytest.mark.parametrize("role", ROLES)
def test_every_role_starts_after_the_topics_and_is_its_command(compose: dict[str, Any], role: str) -> None:
    service = compose["services"][role]
    assert service["command"][0] == role
    assert service["depends_on"] == {"apply": {"condition": "service_completed_successfully"}}
    assert compose["services"]["apply"]["depends_on"]["kafka"]["condition"] == "service_healthy"


def mounts(compose: dict[str, Any], folder: str, services: Iterable[str]) -> list[tuple[str, str]]:
    """Which of the services have which volume at that folder."""
    return [
        (service, volume.split(":")[0])
        for service in services
        for volume in compose["services"][service].get("volumes", ())
        if volume.split(":")[1] == f"/var/lib/driftloop/{folder}"
    ]


def test_every_state_folder_outlives_its_container_and_is_one_roles_own(compose: dict[str, Any]) -> None:
    held = [volume for _, volume in mounts(compose, "state", ROLES)]
    assert held == [f"{role}-state" for role in ROLES]
    assert set(held) <= compose["volumes"].keys()


def test_only_the_trainer_can_reach_the_signing_key(compose: dict[str, Any]) -> None:
    assert [service for service, _ in mounts(compose, "keys", compose["services"])] == ["train"]
    assert "trusted-keys:/var/lib/driftloop/keys/trusted:ro" in compose["services"]["serve"]["volumes"]


def test_the_image_is_built_from_every_package(compose: dict[str, Any]) -> None:
    build = compose["services"]["apply"]["build"]
    dockerfile = (ROOT / build["context"] / build["dockerfile"]).read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = set(project["tool"]["setuptools"]["package-dir"].values())
    assert {folder for folder in folders if f"COPY {folder} {folder}" in dockerfile} == folders
    extras = project["project"]["optional-dependencies"]
    assert "[serve,stream,train]" in dockerfile
    assert {"serve", "stream", "train"} <= extras.keys()
