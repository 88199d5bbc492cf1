"""The secured embedded broker: SASL SCRAM over TLS, ACLs, and no access by default.

Clients connect over TLS with a user and password (SCRAM-SHA-512). The controllers use mutual TLS, so no port
of the broker answers without credentials. Kafka's StandardAuthorizer decides who may do what: without an ACL
nothing is allowed, and only the administrator and the nodes themselves need none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MECHANISM = "SCRAM-SHA-512"
LISTENER = "SASL_SSL"
_JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True, slots=True)
class BrokerSecurity:
    """``key_and_certificate``: PEM, a private key (PKCS 8) and its certificate, which names 127.0.0.1.

    ``ca``: PEM of its authority. ``node_name``: the certificate's subject as Kafka writes it, such as
    ``CN=broker``. The administrator is a super user, made when the data folder is formatted.
    """

    key_and_certificate: Path
    ca: Path
    node_name: str
    admin_password: str = field(repr=False)
    admin: str = "admin"

    def listener_settings(self) -> dict[str, str]:
        """Entries of server.properties that replace the plain listener."""
        tls = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.key_and_certificate.absolute().as_posix(),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca.absolute().as_posix(),
        }
        jaas = f'{_JAAS} required username="{self.admin}" password="{_quoted(self.admin_password)}";'
        return {
            "listener.security.protocol.map": f"{LISTENER}:{LISTENER},CONTROLLER:SSL",
            "inter.broker.listener.name": LISTENER,
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            f"listener.name.{LISTENER.lower()}.{MECHANISM.lower()}.sasl.jaas.config": jaas,
            "listener.name.controller.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{self.admin};User:{self.node_name}",
            "allow.everyone.if.no.acl.found": "false",
            **tls,
        }

    def format_arguments(self) -> tuple[str, ...]:
        """For Kafka's storage tool: the administrator's password goes into the cluster's first records."""
        return ("--add-scram", f'{MECHANISM}=[name="{self.admin}",password="{_quoted(self.admin_password)}"]')

    def admin_config(self) -> dict[str, str]:
        """librdkafka's settings of the administrator."""
        return self.client_config(self.admin, self.admin_password)

    def client_config(self, user: str, password: str) -> dict[str, str]:
        """librdkafka's settings of a user of this broker."""
        return {
            "security.protocol": LISTENER,
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": password,
            "ssl.ca.location": str(self.ca.absolute()),
        }


def _quoted(text: str) -> str:
    """Fit for a quoted value of JAAS and of a properties file."""
    if not text.isascii() or not text.isprintable() or any(sign in text for sign in '"\\'):
        raise ValueError(
            "the administrator's password must be printable ASCII without quotes and backslashes"
        )
    return text
