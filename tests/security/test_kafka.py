"""On a Kafka with TLS, SCRAM and ACLs every role does its work with its own rights, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TextIO

import httpx
import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from driftloop.infra.cluster.acls import ROLES, acls_of
from driftloop.infra.cluster.lag import read_lag
from driftloop.infra.supervisor import RoleProcess, Supervisor
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.events import Label
from driftloop.schemas.topics import CATALOGUE, LABEL_REQUESTS, LABELS, MODEL_UPDATES, VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.privacy import Hasher

from tests.support.kafka.broker import embedded
from tests.support.kafka.locked_deployment import HASH_KEY, HTTP, LOOP, PREFIX, TELL_ALL, TOML, Locked
from tests.support.kafka.secured import MARK, SecuredKafka, make_security, refused_to_read, refused_to_write
from tests.support.kafka.topics import read_topic
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """The whole loop on a locked cluster, each role as a user of its own."""
    folder = tmp_path_factory.mktemp("locked")
    security = make_security(folder / "tls")
    with ExitStack() as stack:
        broker = stack.enter_context(embedded(folder / "broker", security))
        kafka = SecuredKafka(broker, security)
        kafka.add_users(*ROLES, "nobody")
        (folder / "driftloop.toml").write_text(TOML)
        (folder / "tell-all").mkdir()
        (folder / "tell-all" / "sitecustomize.py").write_text(TELL_ALL)
        deployment = Locked(kafka, folder)
        principals = [word for role in ROLES for word in ("--principal", f"{role}=User:{role}")]
        assert "added" in deployment.run("topics", "acls", *principals, "--apply", user="admin")
        reported = deployment.run("topics", "acls", *principals, "--check", user="admin")
        assert "missing" not in reported
        assert "created" in deployment.run("topics", "apply", user="topics")
        assert "published  model late" in deployment.run("apply", user="apply")
        roles = tuple(
            RoleProcess(
                name,
                (name, *(("late", "--port", "0") if name == "serve" else ())),
                deployment.environment(kafka.user_config(name)) | {"DRIFTLOOP_INSTANCE_ID": f"{name}-0"},
            )
            for name in LOOP
        )
        supervisor = Supervisor(roles, deployment.say)
        supervisor.start()
        stack.callback(supervisor.stop)
        yield deployment


def bearer(scope: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {HTTP[scope]}"}


def test_the_whole_loop_runs_with_each_role_as_its_own_user(locked: Locked) -> None:
    where = wait_until(
        lambda: next((line.split()[-1] for line in locked.lines if "serving late on" in line), None),
        deadline_s=180,
    )
    with EventClient(locked.connection("client"), hasher=Hasher(HASH_KEY.encode())) as client:
        for number in range(30):
            name = client.prediction("late", 0, {"hour": number % 24, "tail": "N1"}, "on_time")
            client.label(name, "late" if number % 24 > 12 else "on_time")
        assert client.flush(120) == 0
        assert client.stats.dropped == 0
    locked.address = where
    with httpx.Client(base_url=where, timeout=60) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200, deadline_s=180)
        for number in range(30):  # the server writes predictions and labels as itself
            answer = http.post(
                "/predict", json={"features": {"hour": number % 24, "tail": "N1"}}, headers=bearer("predict")
            )
            assert answer.status_code == 200, answer.text
            reported = {
                "prediction_id": answer.json()["prediction_id"],
                "label": "late" if number % 24 > 12 else "on_time",
            }
            assert http.post("/feedback", json=reported, headers=bearer("feedback")).status_code == 202
        wait_until(
            lambda: http.get("/model", headers=bearer("admin")).json()["version"] == 1,
            f"no version 1: {locked.lines[-20:]}",
            deadline_s=240,
        )
    view = wait_until(lambda: (found := locked.overview().models["late"]).acks and found)
    assert view.champion == 1
    assert {ack.status for ack in view.acks.values()} == {"live"}
    assert view.triggers, "the monitor's trigger is not there"
    assert locked.overview().dead_letters == 0
    pinned = locked.run("models", "pin", "late", "--why", "an operator may", user="operate")
    assert "pin done" in pinned
    status = locked.run("status", user="status")
    assert "driftloop status" not in status
    assert "(never started)" not in status, status
    assert not [
        line for line in locked.lines if "ended with" in line or "authorization failed" in line.lower()
    ]


def test_the_joiner_may_put_a_misrouted_record_right(locked: Locked) -> None:
    producer = Producer(locked.connection("client").client())
    for partition in (0, 1):  # one of the two is the wrong one
        label = Label(prediction_id=f"astray-{partition}", ts=1, label="late")
        for to in (0, 1):
            producer.produce(f"{PREFIX}{LABELS.name}", label.encode(), partition=to)
    assert producer.flush(120) == 0
    wait_until(lambda: _counted(locked, "misrouted") == 2)


def test_labels_are_imported_by_who_may_do_nothing_else(locked: Locked) -> None:
    file = locked.folder / "labels.csv"
    file.write_text("prediction_id,label\nfrom-a-file,late\n")
    assert "1 labels imported" in locked.run("labels", "import", str(file), user="feedback")


def test_dead_letters_are_listed_and_sent_again_with_the_right_to_do_so(locked: Locked) -> None:
    producer = Producer(locked.connection("client").client())
    producer.produce(f"{PREFIX}{LABELS.name}", b"no label", key=b"x")
    assert producer.flush(120) == 0
    wait_until(lambda: locked.overview().dead_letters >= 1)
    assert "not JSON" in locked.run("dlq", "ls", user="dlq")
    locked.run("dlq", "replay", "--all", "--why", "may he?", user="dlq")
    wait_until(lambda: locked.overview().dead_letters >= 2)  # it came again, and is as bad as before


@pytest.mark.parametrize("role", [*ROLES, "nobody"])
def test_a_role_is_refused_what_is_not_its_own(locked: Locked, role: str) -> None:
    access = ROLES.get(role)
    may_write = {topic.name for topic in access.writes} if access else set[str]()
    may_read = {topic.name for topic in access.reads} if access else set[str]()
    connection = locked.connection(role)
    for topic in CATALOGUE:
        if topic.name not in may_write:
            assert refused_to_write(connection, connection.topic(topic)), f"{role} wrote {topic.name}"
    reader = access.readers[0] if access and access.readers else "reader-"
    others = [topic for topic in CATALOGUE if topic.name not in may_read]
    refused = refused_to_read(connection, f"{reader}x", [connection.topic(topic) for topic in others])
    assert refused == {connection.topic(topic) for topic in others}


def test_a_server_cannot_write_model_updates_and_a_client_cannot_read_labels(locked: Locked) -> None:
    assert refused_to_write(locked.connection("serve"), f"{PREFIX}{MODEL_UPDATES.name}")
    assert not refused_to_write(locked.connection("train"), f"{PREFIX}{MODEL_UPDATES.name}")
    labels = f"{PREFIX}{LABELS.name}"
    assert refused_to_read(locked.connection("client"), "reader-x", [labels]) == {labels}
    assert refused_to_read(locked.connection("join"), "reader-x", [labels]) == set()


def test_only_the_trainer_may_write_model_updates() -> None:
    writers = {
        role
        for role in ROLES
        for acl in acls_of(role, "User:x", Connection("", PREFIX))
        if acl.name == f"{PREFIX}{MODEL_UPDATES.name}" and acl.operation == "write"
    }
    assert writers == {"train"}


def test_every_topic_of_the_catalogue_has_a_role_that_writes_it_and_one_that_reads_it() -> None:
    for topic in CATALOGUE:
        if topic is LABEL_REQUESTS:  # reserved: nobody has a right to it
            continue
        assert any(topic in access.writes for access in ROLES.values()), topic.name
        assert any(topic in access.reads for access in ROLES.values()), topic.name


def test_another_roles_group_and_transactional_id_are_not_to_be_had(locked: Locked) -> None:
    server = locked.connection("serve")
    with pytest.raises(KafkaException) as refused:
        Producer(server.transactional("trainer-train-0")).init_transactions(10)
    assert refused.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    consumer = Consumer(server.consumer("trainer"))
    try:
        consumer.subscribe([f"{PREFIX}{MODEL_UPDATES.name}"])
        codes: list[int] = []
        wait_until(lambda: _collect(consumer, codes) and KafkaError.GROUP_AUTHORIZATION_FAILED in codes)
    finally:
        consumer.close()


def test_a_wrong_password_and_a_plain_connection_get_nothing(locked: Locked) -> None:
    wrong = locked.kafka.security.client_config("train", "not the password")
    for config in (wrong, {}):
        refused = Connection(locked.kafka.bootstrap_servers, PREFIX, config)
        with pytest.raises(KafkaException):
            AdminClient(refused.client(log_level=0)).list_topics(timeout=3)
    stranger = dict(locked.kafka.user_config("train"))
    other = make_security(locked.folder / "another")  # a broker of another authority is not believed
    stranger["ssl.ca.location"] = str(other.ca)
    with pytest.raises(KafkaException):
        AdminClient(
            Connection(locked.kafka.bootstrap_servers, PREFIX, stranger).client(log_level=0)
        ).list_topics(timeout=3)


def test_what_is_missing_and_what_is_allowed_beyond_the_list_is_reported(locked: Locked) -> None:
    locked.kafka.add_users("extra")
    admin = AdminClient(locked.kafka.admin(PREFIX).client())
    beyond = AclBinding(
        ResourceType.TOPIC, f"{PREFIX}model-updates", ResourcePatternType.LITERAL, "User:extra", "*",
        AclOperation.WRITE, AclPermissionType.ALLOW,
    )  # fmt: skip
    for future in admin.create_acls([beyond]).values():
        future.result(30)
    arguments = ("topics", "acls", "--principal", "serve=User:extra")
    reported = wait_until(
        lambda: (done := locked.attempt(*arguments, "--check", user="admin")).returncode == 1 and done.stdout
    )
    assert "missing" in reported
    assert "beyond  User:extra: allow write on topic locked.model-updates (literal) from *" in reported
    refused = locked.attempt(*arguments, "--apply", user="train")
    assert refused.returncode == 1
    assert "a user who may alter the cluster" in refused.stderr


# --- secrets: last, when everything above has run, failed and been refused ----------------------------------


def test_no_failure_shows_a_secret(locked: Locked) -> None:
    """Wrong passwords for every role, a broken key, wrong settings: all reported, none with its value."""
    wrong = locked.kafka.security.client_config("train", f"{MARK}-but-wrong")
    broken = locked.folder / "broken-keys"
    broken.mkdir()
    key = broken / "signing.key"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n")
    key.chmod(0o600)
    right = locked.kafka.user_config("train")
    attempts: list[tuple[tuple[str, ...], dict[str, str]]] = [
        *(((role,), locked.environment(wrong)) for role in ("join", "monitor", "train")),
        (("serve", "late", "--port", "0"), locked.environment(wrong)),
        (("status",), locked.environment(wrong)),
        (("train",), locked.environment(right) | {"DRIFTLOOP_KEYS_DIR": str(broken)}),
        (("serve", "late"), locked.environment(right) | {"DRIFTLOOP_HTTP_TOKENS": f"predict={MARK}"}),
        (("serve", "late"), locked.environment(right) | {"DRIFTLOOP_HASH_KEY": MARK[:12]}),
        (
            ("serve", "late"),
            locked.environment(right) | {"DRIFTLOOP_ARTIFACT_STORE": f"nosuch://me:{MARK}@h/y"},
        ),
        (("join",), locked.environment(right) | {"DRIFTLOOP_KAFKA__SASL_PASSWORDS": MARK}),
    ]
    outputs = [(locked.folder / f"attempt-{number}.log").open("w+") for number in range(len(attempts))]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "driftloop", *words], env=os.environ | environment, stdout=output,
            stderr=subprocess.STDOUT,
        )
        for (words, environment), output in zip(attempts, outputs, strict=True)
    ]  # fmt: skip
    try:
        for number in range(5):  # with a wrong password they try for a while: long enough to have said why
            reported = lambda n=number: "uthentication" in _text(outputs[n])  # noqa: E731
            wait_until(reported, str(attempts[number][0]), deadline_s=180)
        for process in started[5:]:
            assert process.wait(180) == 1
    finally:
        for process in started:
            process.kill()
            process.wait()
    for (words, _), output in zip(attempts, outputs, strict=True):
        locked.lines += [f"{words[0]} (failing): {line}" for line in _text(output).splitlines()]
        output.close()
    reported = "\n".join(locked.lines)
    for said in (
        "signing.key is not a PEM private key",
        "32 random characters",
        "at least 16 are needed",
        "nosuch://me:***@h",
    ):
        assert said in reported  # each failure was provoked, and reported
    _assert_secret_free("what failed", reported, locked)


def test_no_secret_is_in_anything_that_was_printed_logged_or_shown(locked: Locked) -> None:
    assert locked.address, "the loop has not run"
    shown = [locked.run("status", user="status"), locked.run("keys", "list", user="status")]
    for path in ("/health/live", "/health/ready", "/metrics", "/model", "/models", "/openapi.json", "/none"):
        for headers in ({}, bearer("admin"), {"Authorization": f"Bearer {MARK}"}):
            answer = httpx.get(locked.address + path, headers=headers, timeout=60)
            shown.append(f"{answer.headers}\n{answer.text}")
    for body in (b"{", b'{"features": 1}', b'{"features": {"hour": "x"}}'):
        answer = httpx.post(f"{locked.address}/predict", content=body, headers=bearer("predict"), timeout=60)
        assert answer.status_code >= 400
        shown.append(answer.text)
    records = [record.value or b"" for record in read_topic(locked.kafka.admin(PREFIX), *CATALOGUE)]
    assert len(records) > 100
    _assert_secret_free("a topic", b"\n".join(records).decode(errors="replace"), locked)
    _assert_secret_free("an answer", "\n".join(shown), locked)
    with locked.printing:
        reported = "\n".join(locked.lines)
    assert "DEBUG" in reported, "the roles did not log everything"
    assert "sasl.password" in reported  # librdkafka printed its configuration, without this one's value
    _assert_secret_free("what was printed", reported, locked)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            _assert_secret_free(str(process), process.read_text(errors="replace"), locked)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile


def _assert_secret_free(what: str, text: str, locked: Locked) -> None:
    pem = (locked.folder / "state" / "keys" / "signing.key").read_text().splitlines()[1]
    assert len(pem) > 40
    for secret in (MARK, pem):
        found = text.find(secret)
        assert found < 0, f"{what} shows a secret: …{text[max(0, found - 200) : found + 60]}"


def _text(output: TextIO) -> str:
    return Path(output.name).read_text(errors="replace")


def _collect(consumer: Consumer, codes: list[int]) -> bool:
    for message in consumer.consume(10, timeout=0.2):
        error = message.error()
        if error is not None:
            codes.append(error.code())
    return True


def _counted(locked: Locked, what: str) -> int:
    """The joiner's own count of what it has met, from vitals."""
    records = read_topic(locked.connection("status"), VITALS)
    values = [orjson.loads(record.value or b"{}") for record in records]
    return sum(int(value.get("counts", {}).get(what, 0)) for value in values)


def test_a_topic_one_may_write_but_not_read_is_an_error_and_no_endless_wait(locked: Locked) -> None:
    with (
        closing(LogReader(locked.connection("serve"), (LABELS,))) as reader,
        pytest.raises(BrokerError, match=r"labels.*cannot be read"),
    ):
        list(reader.catch_up(20))


def test_a_group_one_may_not_look_at_is_an_error_and_no_lag(locked: Locked) -> None:
    with pytest.raises(BrokerError, match="offsets of group"):
        read_lag(locked.connection("serve"))
