"""librdkafka's settings, as driftloop takes them everywhere, in the terms of Faust's aiokafka client."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any

from faust.auth import GSSAPICredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT
from yarl import URL

from ....schemas.errors import SettingsError
from ...kafka.connection import Connection

log = logging.getLogger(__name__)

_SECURE = ("security.", "sasl.", "ssl.", "oauthbearer.", "enable.ssl.")
_TLS = {
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
}
_SASL = {"sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password", "sasl.kerberos.service.name"}
_SUPPORTED = _TLS | _SASL | {"security.protocol"}
_PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def broker_urls(bootstrap_servers: str) -> list[URL]:
    """``host:port,[::1]:port`` as Faust's URLs; a missing port is Kafka's 9092."""
    urls: list[URL] = []
    for server in bootstrap_servers.split(","):
        name = server.strip().rpartition("://")[2]
        if not name:
            continue
        try:
            urls.append(URL(f"kafka://{name}"))
        except ValueError:
            urls.append(URL())
        if urls[-1].host is None:
            raise SettingsError(f"bootstrap servers: {server!r} is not host:port")
    if not urls:
        raise SettingsError("bootstrap servers are empty: set DRIFTLOOP_BOOTSTRAP_SERVERS to host:port")
    return urls


def client_settings(connection: Connection) -> dict[str, Any]:
    """Faust settings for ``connection``: brokers and credentials.

    Raises SettingsError for a security setting that aiokafka cannot honour. Other settings of librdkafka
    (buffers, timeouts) do not apply to this client; they are named in the log once.
    """
    overrides = connection.overrides
    refused = sorted(key for key in overrides if key.startswith(_SECURE) and key not in _SUPPORTED)
    if refused:
        raise SettingsError(
            f"the monitor's Kafka client cannot honour {', '.join(refused)}; it knows "
            f"{', '.join(sorted(_SUPPORTED))}"
        )
    ignored = sorted(key for key in overrides if not key.startswith(_SECURE))
    if ignored:
        log.info("librdkafka settings that do not apply to the monitor's client: %s", ", ".join(ignored))
    return {"broker": broker_urls(connection.bootstrap_servers), "broker_credentials": credentials(overrides)}


def credentials(overrides: Mapping[str, str]) -> CredentialsT | None:
    """Faust credentials of librdkafka's security settings; None for plaintext. Raises SettingsError."""
    protocol = overrides.get("security.protocol", "plaintext").upper()
    if protocol not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise SettingsError(
            f"security.protocol is {protocol!r}: use plaintext, ssl, sasl_plaintext or sasl_ssl"
        )
    tls, sasl = protocol.endswith("SSL"), protocol.startswith("SASL")
    for family, keys, in_use in (("ssl", _TLS, tls), ("sasl", _SASL, sasl)):
        idle = sorted(keys & overrides.keys())
        if idle and not in_use:
            raise SettingsError(
                f"{', '.join(idle)} would have no effect: security.protocol is {protocol.lower()}; "
                f"set it to one with {family}, or drop them"
            )
    context = _tls_context(overrides) if tls else None
    if sasl:
        return _sasl(overrides, context)
    return SSLCredentials(context) if context is not None else None


def _sasl(overrides: Mapping[str, str], context: ssl.SSLContext | None) -> CredentialsT:
    mechanism = overrides.get("sasl.mechanism", overrides.get("sasl.mechanisms", "GSSAPI")).upper()
    if mechanism == "GSSAPI":
        service = overrides.get("sasl.kerberos.service.name", "kafka")
        return GSSAPICredentials(kerberos_service_name=service, ssl_context=context)
    if mechanism not in _PASSWORD_MECHANISMS:
        raise SettingsError(
            f"sasl.mechanism {mechanism} is not available to the monitor: use "
            f"{', '.join(_PASSWORD_MECHANISMS)} or GSSAPI"
        )
    username, password = overrides.get("sasl.username"), overrides.get("sasl.password")
    if not username or password is None:
        raise SettingsError(f"sasl.mechanism {mechanism} needs sasl.username and sasl.password")
    return SASLCredentials(username=username, password=password, ssl_context=context, mechanism=mechanism)


def _tls_context(overrides: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=overrides.get("ssl.ca.location"), cadata=overrides.get("ssl.ca.pem")
        )
        certificate = overrides.get("ssl.certificate.location")
        if certificate is not None:
            context.load_cert_chain(
                certificate, overrides.get("ssl.key.location"), overrides.get("ssl.key.password")
            )
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"TLS files of the Kafka settings cannot be used: {error}") from error
    if overrides.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if overrides.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
