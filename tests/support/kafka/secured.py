"""A secured Kafka for tests: TLS certificates made on the spot, and SCRAM users."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.broker.security import BrokerSecurity
from driftloop.streams.kafka.connection import Connection

from tests.support.waiting import wait_until

NODE = "driftloop-test-broker"
MARK = "marked-secret"  # what every secret of these tests holds, so that a leak of any can be found


@dataclass
class SecuredKafka:
    """A broker that lets nobody in without a password, and its administrator."""

    broker: EmbeddedBroker
    security: BrokerSecurity
    passwords: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def bootstrap_servers(self) -> str:
        return self.broker.bootstrap_servers

    def admin(self, prefix: str) -> Connection:
        return Connection(self.bootstrap_servers, prefix, self.security.admin_config())

    def add_users(self, *names: str) -> None:
        """Users with passwords of their own, known once this returns."""
        admin = AdminClient(self.admin("").client())
        wanted = [name for name in names if name not in self.passwords]
        for name in wanted:
            self.passwords[name] = f"{MARK}-password-of-{name}-{secrets.token_hex(12)}"
        made = cast(
            "Mapping[str, Future[None]]",
            admin.alter_user_scram_credentials(
                [
                    UserScramCredentialUpsertion(
                        name,
                        ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096),
                        self.passwords[name].encode(),
                    )
                    for name in wanted
                ]
            ),
        )
        for future in made.values():
            future.result(30)

    def user_config(self, name: str) -> dict[str, str]:
        return self.security.client_config(name, self.passwords[name])

    def as_user(self, name: str, prefix: str) -> Connection:
        return Connection(self.bootstrap_servers, prefix, self.user_config(name))


def make_security(folder: Path) -> BrokerSecurity:
    """A certificate authority, a broker certificate of 127.0.0.1 and an administrator."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("driftloop test authority", authority_key, authority_key, None)
    node_key = ec.generate_private_key(ec.SECP256R1())
    node = _certificate(NODE, node_key, authority_key, authority)
    private = node_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = node.public_bytes(Encoding.PEM)
    (folder / "broker.pem").write_bytes(private + chain)
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    return BrokerSecurity(
        folder / "broker.pem",
        folder / "ca.pem",
        f"CN={NODE}",
        admin_password=f"{MARK}-of-the-administrator-{secrets.token_hex(12)}",
    )


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    if authority is None:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    else:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(signing, hashes.SHA256())


def refused_to_write(connection: Connection, topic: str) -> bool:
    """Whether the cluster will not let this user write to the topic."""
    producer = Producer(connection.client(enable_idempotence=False, message_timeout_ms=20_000))
    outcome: list[KafkaError | None] = []
    producer.produce(topic, b"{}", key=b"x", partition=0, on_delivery=lambda error, _: outcome.append(error))
    assert producer.flush(120) == 0
    error = outcome[0]
    assert error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error
    return error is not None


def refused_to_read(connection: Connection, group: str, topics: list[str]) -> set[str]:
    """Which of the topics the cluster will not let this user read; the others come to their end."""
    consumer = Consumer(connection.consumer(group))
    try:
        # A topic that it may not even know of is refused here; one that it may know of, when it is fetched.
        known = {topic: consumer.list_topics(topic, timeout=20).topics[topic].error for topic in topics}
        refused = {topic for topic, error in known.items() if error is not None}
        assert {known[topic].code() for topic in refused} <= {KafkaError.TOPIC_AUTHORIZATION_FAILED}
        waiting = set(topics) - refused
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in waiting])

        def all_answered() -> bool:
            for message in consumer.consume(100, timeout=0.05):
                error, topic = message.error(), message.topic() or ""
                if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    refused.add(topic)
                elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                    continue
                waiting.discard(topic)
            return not waiting

        wait_until(all_answered, f"{group} on {topics}")
        return refused
    finally:
        consumer.close()
