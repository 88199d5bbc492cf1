"""What can be wrong with the cluster: brokers, topics, clocks, groups, specs, signatures of updates."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient, ClusterMetadata, ResourceType
from pydantic import ValidationError

from ...models.registry.signing import load_verifier
from ...schemas.errors import ArtifactError, BrokerError, DecodeError, SettingsError
from ...schemas.reasons.validation import first_reason
from ...schemas.serving import ModelUpdate
from ...schemas.spec.model import JOIN_KEY, Join, SpecRecord
from ...schemas.topics import (
    CATALOGUE,
    CO_PARTITIONED,
    DEAD_LETTER_RESOLUTIONS,
    LABELS,
    MODEL_UPDATES,
    PREDICTIONS,
    SPECS,
)
from ...streams.kafka.connection import Connection
from ...streams.kafka.reach import reach
from ...streams.kafka.reader import newest_values
from ...streams.kafka.transactions import Transactions
from ..cluster.lag import GROUP_TOPICS, read_lag
from ..cluster.members import count_members
from ..cluster.topics import inspect_topics, read_configs
from ..settings import Settings
from .books import check_books
from .dead_letters import check_dead_letters
from .findings import Finding

MAX_SKEW_MS = 5_000
MAX_LAG = 100_000  # offsets: about a minute of what one joiner takes
_AT_REST = 2  # offsets per partition that transaction markers leave
_TIMEOUT_S = 10.0
_RIVAL = "another `driftloop doctor` took over"
_APPLY = "driftloop topics apply"
_MIGRATE = (
    "the drained migration in docs/operations.md, or set DRIFTLOOP_DATA_PARTITIONS or "
    "DRIFTLOOP_MODEL_PARTITIONS to what there is"
)

Clock = Callable[[], int]


def local_ms() -> int:
    return time.time_ns() // 1_000_000


def check_cluster(settings: Settings, clock: Clock = local_ms) -> Iterator[Finding]:
    """Check everything that can be seen through Kafka; if it is away, that is the only finding."""
    try:
        connection = settings.connection()
        reach(connection, _TIMEOUT_S)
        admin = AdminClient(connection.client())
        metadata = admin.list_topics(timeout=_TIMEOUT_S)
    except SettingsError as error:
        yield Finding("cluster", "fault", str(error), "driftloop broker, or set DRIFTLOOP_BOOTSTRAP_SERVERS")
        return
    except (BrokerError, KafkaException) as error:
        yield Finding("cluster", "fault", str(error), "")
        return
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("cluster", lambda: check_brokers(admin, metadata)),
        ("topics", lambda: check_topics(connection, settings)),
        ("co-partitioning", lambda: check_co_partitioning(connection, metadata)),
        ("replication", lambda: check_replication(admin, connection, metadata)),
        ("clock", lambda: check_clock(connection, metadata, clock)),
        ("specs", lambda: check_specs(connection)),
        ("retention", lambda: check_retention(admin, connection, metadata)),
        ("groups", lambda: check_groups(admin, connection)),
        ("books", lambda: check_books(connection)),
        ("signatures", lambda: check_signatures(connection, settings)),
        ("dead letters", lambda: check_dead_letters(connection)),
    )
    for name, check in checks:
        try:
            yield from check()
        except (KafkaException, BrokerError, SettingsError) as error:
            yield Finding(name, "fault", f"cannot be checked: {error}", f"{_APPLY}; then look again")


def check_brokers(admin: AdminClient, metadata: ClusterMetadata) -> Iterator[Finding]:
    """Check the brokers and Kafka's release, known only through a setting that 4.0 removed."""
    count = len(metadata.brokers)
    configs = read_configs(admin, ResourceType.BROKER, [str(next(iter(metadata.brokers)))], _TIMEOUT_S)
    protocol = next(iter(configs.values())).get("inter.broker.protocol.version")
    release = "4 or newer" if protocol is None else protocol
    old = protocol is not None and tuple(map(int, protocol.split("-")[0].split(".")[:2])) < (2, 5)
    what = f"Kafka {release}, {count} brokers, cluster {metadata.cluster_id}"
    fix = "exactly once needs Kafka 2.5 or newer: upgrade" if old else ""
    yield Finding("cluster", "fault" if old else "ok", what, fix)
    if count < 3:
        what = f"{count} broker{'s' if count > 1 else ''}: nothing survives the loss of a disk"
        yield Finding("cluster", "warning", what, "three brokers or more in production")


def check_topics(connection: Connection, settings: Settings) -> Iterator[Finding]:
    report = inspect_topics(
        connection, data_partitions=settings.data_partitions, model_partitions=settings.model_partitions
    )
    for name in report.created:
        yield Finding("topics", "fault", f"{name} is missing", _APPLY)
    for difference in report.differences:
        yield Finding("topics", "fault", str(difference), _MIGRATE if difference.refused else _APPLY)
    if not report.created and not report.differences:
        yield Finding("topics", "ok", f"all {len(CATALOGUE)} are as the catalogue says")


def check_co_partitioning(connection: Connection, metadata: ClusterMetadata) -> Iterator[Finding]:
    names = [connection.topic(topic) for topic in CO_PARTITIONED]
    counts = {name: len(metadata.topics[name].partitions) for name in names if name in metadata.topics}
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    if len(set(counts.values())) > 1:
        fix = "partitions cannot be taken away: the drained migration in docs/operations.md"
        yield Finding("co-partitioning", "fault", f"these must have as many partitions each: {shown}", fix)
    else:
        yield Finding("co-partitioning", "ok", shown or "no topics yet")


def check_replication(
    admin: AdminClient, connection: Connection, metadata: ClusterMetadata
) -> Iterator[Finding]:
    names = [name for topic in CATALOGUE if (name := connection.topic(topic)) in metadata.topics]
    configs = read_configs(admin, ResourceType.TOPIC, names, _TIMEOUT_S)
    brokers, wrong = len(metadata.brokers), False
    for name in names:
        partitions = metadata.topics[name].partitions.values()
        copies = min((len(one.replicas) for one in partitions), default=0)
        in_sync = min((len(one.isrs) for one in partitions), default=0)
        least = int(configs[name]["min.insync.replicas"] or 1)
        set_least = _set(name, f"min.insync.replicas={max(1, min(2, copies - 1))}")
        no_writes = f"min.insync.replicas {least} with {copies} copies: nobody can write"
        behind = f"{in_sync} of {copies} copies are in sync"
        for fault, what, fix in (
            (
                copies < min(3, brokers),
                f"{copies} copies on {brokers} brokers",
                "kafka-reassign-partitions.sh",
            ),
            (least > copies, no_writes, set_least),
            (copies >= 3 and least < 2, "min.insync.replicas 1: acknowledged records can be lost", set_least),
            (in_sync < copies, behind, "see why a broker is away or behind"),
        ):
            if fault:
                wrong = True
                yield Finding("replication", "fault", f"{name}: {what}", fix)
    if names and not wrong:
        yield Finding("replication", "ok", "copies and min.insync.replicas suit the brokers")


def _set(name: str, setting: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}"


def check_clock(connection: Connection, metadata: ClusterMetadata, clock: Clock) -> Iterator[Finding]:
    """Ask each broker that leads a partition to append a record in a transaction that is then aborted."""
    name = connection.topic(DEAD_LETTER_RESOLUTIONS)
    if name not in metadata.topics:
        return
    leaders = {one.leader: number for number, one in metadata.topics[name].partitions.items()}
    transactions = Transactions(connection, "doctor", call_s=_TIMEOUT_S, timeout_s=_TIMEOUT_S, rival=_RIVAL)
    transactions.start()
    wrong = False
    for leader, partition in sorted(leaders.items()):
        skew = _skew_ms(transactions, name, partition, clock)
        if not isinstance(skew, int):
            wrong = True
            what = f"broker {leader} takes no records: {skew or 'no answer'}"
            yield Finding("clock", "fault", what, "see its log, and what doctor may write: docs/doctor.md")
        elif skew > MAX_SKEW_MS:
            wrong = True
            what = f"broker {leader}'s clock and this machine's are {skew / 1000:.1f} s apart"
            yield Finding("clock", "fault", what, "run NTP on both")
    if not wrong:
        yield Finding(
            "clock", "ok", f"within {MAX_SKEW_MS / 1000:g} s of the clocks of {len(leaders)} brokers"
        )


def _skew_ms(transactions: Transactions, topic: str, partition: int, clock: Clock) -> int | KafkaError | None:
    """How far apart the leader's clock and ours are, or why it took no record; None without an answer."""
    skew: int | KafkaError | None = None

    def append() -> None:
        before = clock()

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            nonlocal skew
            appended_ms = message.timestamp()[1]
            skew = max(before - appended_ms, appended_ms - clock(), 0) if error is None else error

        transactions.send(topic, b"{}", partition=partition, on_delivery=on_delivery)
        transactions.flush()

    transactions.rehearse(append)
    return skew


def check_specs(connection: Connection) -> Iterator[Finding]:
    newest = newest_values(connection, SPECS, timeout_s=_TIMEOUT_S)
    wrong = False
    for key, value in newest.items():
        try:
            record = SpecRecord.decode(value)
            _ = record.join() if key == JOIN_KEY else record.model_spec()
        except (DecodeError, ValidationError) as error:
            wrong = True
            reason = error.reason if isinstance(error, DecodeError) else first_reason("spec", error)
            what = f"the published spec of {key!r} cannot be read: {reason}"
            yield Finding("specs", "fault", what, "driftloop apply")
    models = len(newest.keys() - {JOIN_KEY})
    if not models:
        yield Finding("specs", "warning", "no model's spec is published", "driftloop apply")
    elif not wrong:
        yield Finding("specs", "ok", f"{models} published")


def check_retention(
    admin: AdminClient, connection: Connection, metadata: ClusterMetadata
) -> Iterator[Finding]:
    """Check that retention covers the horizon and correction window, which a new joiner reads back."""
    join = Join()
    value = newest_values(connection, SPECS, timeout_s=_TIMEOUT_S).get(JOIN_KEY)
    if value is not None:
        with suppress(DecodeError, ValidationError):  # check_specs reports it
            join = SpecRecord.decode(value).join()
    needed = join.horizon + join.early_horizon + join.correction_window
    names = [name for topic in (PREDICTIONS, LABELS) if (name := connection.topic(topic)) in metadata.topics]
    for name, config in read_configs(admin, ResourceType.TOPIC, names, _TIMEOUT_S).items():
        kept = int(config["retention.ms"] or -1)
        if 0 <= kept < needed:
            what = f"{name} is kept for {_days(kept)}, but horizons and corrections take {_days(needed)}"
            fix = f"{_set(name, f'retention.ms={needed}')}; or a shorter horizon and driftloop apply"
            yield Finding("retention", "fault", what, fix)
        else:
            yield Finding("retention", "ok", f"{name}: longer than the {_days(needed)} that joining takes")


def _days(ms: int) -> str:
    return f"{ms / 86_400_000:.1f} days"


def check_groups(admin: AdminClient, connection: Connection) -> Iterator[Finding]:
    behind: Counter[str] = Counter()
    for lag in read_lag(connection):
        behind[lag.group] += max(0, lag.behind - _AT_REST)
    start = {"join": "driftloop join", "monitor": "driftloop monitor", "trainer": "driftloop train"}
    for group in GROUP_TOPICS:
        lag = behind[group]
        try:
            members = count_members(admin, connection.group(group))
        except BrokerError as error:
            yield Finding("groups", "fault", str(error), "let doctor describe groups: docs/doctor.md")
            continue
        what = f"{group}: {members} members, {lag} offsets behind"
        if lag and not members:
            yield Finding("groups", "fault", what, f"start one: {start[group]} (or driftloop up)")
        elif lag > MAX_LAG:
            yield Finding("groups", "fault", what, f"start more: {start[group]}; see docs/operations.md")
        elif not members:
            yield Finding("groups", "warning", what, f"start one: {start[group]} (or driftloop up)")
        else:
            yield Finding("groups", "ok", what)


def check_signatures(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Check that the newest updates can be verified with the keys that are trusted here."""
    verifier = load_verifier(settings.keys_path())
    updates = wrong = 0
    for key, value in newest_values(connection, MODEL_UPDATES, timeout_s=_TIMEOUT_S).items():
        updates += 1
        try:
            verifier.verify(ModelUpdate.decode(value))
        except (ArtifactError, DecodeError) as error:
            wrong += 1
            fix = "copy the trainer's trusted/KEY_ID.pub here; after a revocation: driftloop keys reissue"
            yield Finding("signatures", "fault", f"the newest update of {key!r}: {error}", fix)
    if not wrong:
        yield Finding("signatures", "ok", f"{updates} models' updates are signed with trusted keys")
