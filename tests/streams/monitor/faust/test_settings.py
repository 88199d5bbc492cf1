"""librdkafka's settings reach the monitor's client, or are refused by name."""

from __future__ import annotations

import ssl

import pytest
from driftloop.schemas.errors import SettingsError
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.faust.settings import broker_urls, client_settings, credentials
from faust.auth import GSSAPICredentials, SASLCredentials, SSLCredentials
from faust.types.auth import AuthProtocol, SASLMechanism


def test_every_bootstrap_server_is_kept() -> None:
    urls = broker_urls("one:9092, 10.0.0.2:9093,[::1]:9094")
    assert [(url.host, url.port) for url in urls] == [("one", 9092), ("10.0.0.2", 9093), ("::1", 9094)]


@pytest.mark.parametrize("servers", ["", " , ", "host:port:x"])
def test_unusable_bootstrap_servers_are_refused(servers: str) -> None:
    with pytest.raises(SettingsError, match="bootstrap servers"):
        broker_urls(servers)


def test_plaintext_needs_no_credentials() -> None:
    assert credentials({}) is None
    assert credentials({"security.protocol": "PLAINTEXT"}) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("name", ["sasl.mechanism", "sasl.mechanisms"])
def test_passwords_reach_the_client(mechanism: str, name: str) -> None:
    made = credentials(
        {"security.protocol": "sasl_plaintext", name: mechanism, "sasl.username": "u", "sasl.password": "p"}
    )
    assert isinstance(made, SASLCredentials)
    assert (made.protocol, made.mechanism) == (AuthProtocol.SASL_PLAINTEXT, SASLMechanism(mechanism))
    assert (made.username, made.password, made.ssl_context) == ("u", "p", None)


def test_sasl_over_tls_checks_the_brokers_certificate() -> None:
    made = credentials(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "u",
            "sasl.password": "p",
        }
    )
    assert isinstance(made, SASLCredentials)
    assert made.protocol == AuthProtocol.SASL_SSL
    assert made.ssl_context is not None
    assert made.ssl_context.verify_mode == ssl.CERT_REQUIRED
    assert made.ssl_context.check_hostname


def test_kerberos_takes_the_service_name() -> None:
    made = credentials({"security.protocol": "sasl_plaintext", "sasl.kerberos.service.name": "broker"})
    assert isinstance(made, GSSAPICredentials)
    assert made.kerberos_service_name == "broker"


def test_host_names_go_unchecked_only_when_asked() -> None:
    made = credentials({"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"})
    assert isinstance(made, SSLCredentials)
    assert not made.context.check_hostname
    assert made.context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"security.protocol": "tls"}, "security.protocol"),
        ({"security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"}, "sasl.username"),
        ({"sasl.username": "u", "sasl.password": "p"}, "sasl.username"),
        ({"security.protocol": "sasl_plaintext", "ssl.ca.location": "ca.pem"}, "ssl.ca.location"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/nowhere/ca.pem"}, "TLS files"),
        ({"security.protocol": "ssl", "ssl.keystore.location": "k.p12"}, "ssl.keystore.location"),
        ({"sasl.oauthbearer.config": "x"}, "sasl.oauthbearer.config"),
    ],
)
def test_a_security_setting_that_cannot_be_honoured_is_refused_by_name(
    overrides: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        client_settings(Connection("localhost:9092", overrides=overrides))


def test_a_refusal_does_not_show_secrets() -> None:
    overrides = {"security.protocol": "plaintext", "sasl.username": "u", "sasl.password": "hush"}
    with pytest.raises(SettingsError) as caught:
        credentials(overrides)
    assert "hush" not in str(caught.value)
