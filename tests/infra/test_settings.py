from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import SettingsError
from pydantic import SecretStr

from tests.support.paths import DOCS


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"DRIFTLOOP_{name}", value)
    return Settings()


def test_the_defaults_are_the_documented_ones() -> None:
    settings = Settings()
    assert settings.bootstrap_servers is None
    assert settings.config == Path("driftloop.toml")
    assert settings.state_dir == Path(".driftloop")
    assert settings.topic_prefix == "driftloop."
    assert (settings.data_partitions, settings.model_partitions) == (4, 4)
    assert settings.clock == "append"
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8080)


def plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "bootstrap_servers": "kafka-1:9093,kafka-2:9093",
        "config": "/etc/driftloop.toml",
        "state_dir": "/var/lib/driftloop",
        "instance_id": "pod-7",
        "topic_prefix": "shop.",
        "kafka_jars": str(tmp_path),
        "artifact_store": "s3://bucket/artifacts",
        "keys_dir": "/keys",
        "hash_key": "0123456789abcdef",
        "data_partitions": "12",
        "model_partitions": "3",
        "clock": "event",
        "learners": "ours.learners:deep,ours.more",
        "http_host": "0.0.0.0",
        "http_tokens": "predict=sha256:" + "0" * 64,
        "http_port": "80",
        "metrics_port": "9100",
        "metrics_host": "0.0.0.0",
        "checkpoint_interval_s": "60",
        "checkpoints_kept": "3",
        "join_cache_mb": "128",
        "join_memory_ids": "50000",
        "join_linger_ms": "7",
        "spill_mb": "64",
        "spill_drops": "oldest",
    }
    settings = with_environment(monkeypatch, **{name.upper(): value for name, value in values.items()})
    assert {name: plain(getattr(settings, name)) for name in values} == values
    assert values.keys() == Settings.model_fields.keys() - {"kafka"}


@pytest.mark.parametrize(
    "variable",
    [
        "DRIFTLOOP_KAFKA__SECURITY_PROTOCOL",
        "DRIFTLOOP_KAFKA__SECURITY__PROTOCOL",
        "driftloop_kafka__security_protocol",
    ],
)
def test_kafka_variables_become_librdkafka_settings(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "plaintext")
    assert Settings().kafka == {"security.protocol": "plaintext"}


def test_sasl_settings_reach_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "loop",
        "sasl.password": "s3cret", "log_level": "3",
    }  # fmt: skip
    variables = {f"KAFKA__{name.upper().replace('.', '_')}": value for name, value in given.items()}
    settings = with_environment(monkeypatch, BOOTSTRAP_SERVERS="kafka:9093", **variables)
    expected = given | {"bootstrap.servers": "kafka:9093"}
    connection = settings.connection()
    for config in (connection.client(), connection.consumer("g"), connection.transactional("t")):
        assert expected.items() <= config.items()
    assert connection.client(client_id="me")["client.id"] == "me"


def test_secrets_stay_out_of_reprs_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(
        monkeypatch,
        BOOTSTRAP_SERVERS="kafka:9093",
        KAFKA__SASL_PASSWORD="s3cret",
        ARTIFACT_STORE="ftp://me:s3cret@h",
        HASH_KEY="s3cret and sixteen characters",
        HTTP_TOKENS="predict=s3cret",
    )
    assert "s3cret" not in repr(settings) + str(settings) + repr(settings.connection())
    monkeypatch.setenv("DRIFTLOOP_KAFKA__NOT_A_SETTING", "s3cret")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None  # nor in a traceback


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("DRIFTLOOP_BOOTSRAP_SERVERS", "kafka:9092", "did you mean DRIFTLOOP_BOOTSTRAP_SERVERS?"),
        ("DRIFTLOOP_TOPICS_PREFIX", "x.", "did you mean DRIFTLOOP_TOPIC_PREFIX?"),
        ("DRIFTLOOP_KAFKA_SASL_USERNAME", "me", "did you mean DRIFTLOOP_KAFKA__SASL_USERNAME?"),
        ("DRIFTLOOP_KAFKA__SASL_USERNAM", "me", 'No such configuration property: "sasl.usernam"'),
        ("DRIFTLOOP_KAFKA__SECURITY_PROTOCOL", "TLS", "DRIFTLOOP_KAFKA: Invalid value"),
        ("DRIFTLOOP_KAFKA__BOOTSTRAP_SERVERS", "k:1", "through DRIFTLOOP_BOOTSTRAP_SERVERS"),
        ("DRIFTLOOP_KAFKA__GROUP_ID", "mine", "sets group.id itself"),
        ("DRIFTLOOP_KAFKA__ISOLATION_LEVEL", "read_uncommitted", "sets isolation.level itself"),
        ("DRIFTLOOP_BOOTSTRAP_SERVERS", "kafka", "'kafka' is not host:port"),
        ("DRIFTLOOP_TOPIC_PREFIX", "my prefix", "DRIFTLOOP_TOPIC_PREFIX: may hold letters"),
        ("DRIFTLOOP_CLOCK", "wall", "DRIFTLOOP_CLOCK: Input should be 'append' or 'event'"),
        ("DRIFTLOOP_DATA_PARTITIONS", "0", "DRIFTLOOP_DATA_PARTITIONS: Input should be greater"),
        ("DRIFTLOOP_HTTP_PORT", "http", "DRIFTLOOP_HTTP_PORT: Input should be a valid integer"),
    ],
)
def test_a_wrong_or_idle_variable_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert says in str(caught.value)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, BOOTSTRAP_SERVERS="", STATE_DIR="").state_dir == Path(".driftloop")


def test_without_a_cluster_the_error_says_how_to_get_one() -> None:
    with pytest.raises(SettingsError, match=r"DRIFTLOOP_BOOTSTRAP_SERVERS.*`driftloop broker`"):
        Settings().connection()


@pytest.mark.parametrize(
    ("instance_id", "role", "name"),
    [("join-0", "join", "join-0"), ("pod-7", "join", "join-pod-7"), ("train", "train", "train")],
)
def test_two_roles_never_share_an_instance_name(
    monkeypatch: pytest.MonkeyPatch, instance_id: str, role: str, name: str
) -> None:
    settings = with_environment(monkeypatch, INSTANCE_ID=instance_id)
    assert settings.instance(role) == name
    assert settings.instance("monitor") != settings.instance("join")


def test_an_instance_is_named_after_its_host_by_default() -> None:
    assert Settings().instance("join").startswith("join-")
    assert Settings().instance("join") == Settings().instance("join")


def test_artifacts_and_keys_live_in_the_state_folder_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = with_environment(monkeypatch, STATE_DIR=str(tmp_path))
    assert settings.store_url() == str(tmp_path / "artifacts")
    assert settings.keys_path() == tmp_path / "keys"
    moved = with_environment(monkeypatch, ARTIFACT_STORE="s3://bucket", KEYS_DIR="/keys")
    assert moved.store_url() == "s3://bucket"
    assert moved.keys_path() == Path("/keys")


def test_the_prefix_and_the_settings_reach_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, BOOTSTRAP_SERVERS="kafka:9092", TOPIC_PREFIX="shop.")
    assert dataclasses.asdict(settings.connection()) == {
        "bootstrap_servers": "kafka:9092",
        "prefix": "shop.",
        "overrides": {},
    }


def test_every_setting_and_its_default_is_documented() -> None:
    lines = (DOCS / "settings.md").read_text("utf-8").splitlines()
    table = {cells[1].strip(): cells[2] for cells in (line.split("|") for line in lines) if len(cells) == 5}
    for name, field in Settings.model_fields.items():
        variable = f"`DRIFTLOOP_{name.upper()}" + ("__…`" if name == "kafka" else "`")
        assert variable in table
        if isinstance(field.default, str | int | Path):
            assert f"`{field.default}`" in table[variable]
