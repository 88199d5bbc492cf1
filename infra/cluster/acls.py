"""Who may do what on a cluster with ACLs: one row per role, and the bindings that follow from it.

A role gets what its code does and no more: topics it reads and writes, consumer groups it commits to,
transactional ids it owns, and the groups of its readers, since Kafka checks the right to a group's name even
for a consumer that never commits. Only ``train`` may write model-updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ...schemas.topics import (
    CATALOGUE,
    COMMAND_RESULTS,
    COMMANDS,
    DEAD_LETTER_RESOLUTIONS,
    DEAD_LETTERS,
    DRIFT,
    JOIN_PROGRESS,
    LABELS,
    MODEL_ACKS,
    MODEL_UPDATES,
    MONITOR_STATE,
    OUTCOMES,
    PREDICTIONS,
    SPECS,
    TRAINING_RUNS,
    TRIGGERS,
    VITALS,
    Topic,
)
from ...streams.kafka.connection import Connection

Resource = Literal["topic", "group", "transactional-id"]
Pattern = Literal["literal", "prefixed"]
Operation = Literal["read", "write", "describe", "describe-configs", "alter", "alter-configs", "create"]


@dataclass(frozen=True, slots=True)
class Access:
    """What one role does on Kafka. Names are without the deployment's prefix.

    ``reads``, ``writes``: contents of topics. ``looks_at``: topics of which it reads only the offsets.
    ``groups``: those it joins and commits to. ``readers``: prefixes of its groups that never commit.
    ``watches``: groups whose progress it reads. ``transactions``: prefixes of its transactional ids.
    ``keeps_topics``: creates and corrects every topic of the deployment, and reads none.
    """

    does: str
    reads: tuple[Topic, ...] = ()
    writes: tuple[Topic, ...] = ()
    looks_at: tuple[Topic, ...] = ()
    groups: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()
    keeps_topics: bool = False


ROLES: Mapping[str, Access] = {
    "join": Access(
        "driftloop join",
        reads=(PREDICTIONS, LABELS, OUTCOMES, DEAD_LETTERS, SPECS),  # outcomes, dead letters: to restore
        # predictions, labels: misrouted records, which it forwards
        writes=(OUTCOMES, VITALS, DEAD_LETTERS, PREDICTIONS, LABELS, JOIN_PROGRESS),
        groups=("join",),
        readers=("reader-", "ranges-join-"),
        transactions=("join-",),
    ),
    "monitor": Access(
        "driftloop monitor",
        reads=(VITALS, MONITOR_STATE),
        writes=(DRIFT, TRIGGERS, MONITOR_STATE, DEAD_LETTERS, VITALS),  # vitals: ticks
        groups=("monitor",),
        readers=("monitor-state-",),
    ),
    "train": Access(
        "driftloop train: trainer and registrar",
        reads=(TRIGGERS, COMMANDS, OUTCOMES, SPECS, TRAINING_RUNS, MODEL_UPDATES, COMMAND_RESULTS),
        writes=(TRAINING_RUNS, MODEL_UPDATES, COMMAND_RESULTS, DEAD_LETTERS, VITALS),  # vitals: runs' results
        groups=("trainer",),
        readers=("reader-", "ranges-", "watch"),
        transactions=("trainer-",),
    ),
    "serve": Access(
        "driftloop serve and score, HotModel",
        reads=(SPECS, MODEL_UPDATES),
        writes=(PREDICTIONS, LABELS, MODEL_ACKS),
        readers=("reader-",),
    ),
    "client": Access(
        "driftloop.Client: predictions and labels",
        reads=(SPECS,),  # they say what must be hashed or dropped before it leaves
        writes=(PREDICTIONS, LABELS),
        readers=("reader-",),
    ),
    "feedback": Access("driftloop labels import, sources of labels alone", writes=(LABELS,)),
    "apply": Access(
        "driftloop apply",
        reads=(SPECS,),
        writes=(SPECS, VITALS),
        readers=("reader-",),
        transactions=("apply",),
    ),
    "operate": Access(
        "driftloop models, trigger, approve: people's commands",
        reads=(COMMAND_RESULTS, SPECS, MODEL_UPDATES, MODEL_ACKS, TRAINING_RUNS, DRIFT, TRIGGERS, VITALS,
               DEAD_LETTERS),
        writes=(COMMANDS,),
        readers=("reader-",),
    ),
    "status": Access(
        "driftloop status, models list and show: looks, and changes nothing",
        reads=(SPECS, MODEL_UPDATES, MODEL_ACKS, TRAINING_RUNS, DRIFT, TRIGGERS, VITALS, DEAD_LETTERS,
               JOIN_PROGRESS),
        looks_at=(PREDICTIONS, LABELS, COMMANDS),
        readers=("reader-",),
        watches=("join", "monitor", "trainer"),
    ),
    "dlq": Access(
        "driftloop dlq: reads what was refused, and sends it back to where it came from",
        reads=(DEAD_LETTERS, DEAD_LETTER_RESOLUTIONS, PREDICTIONS, LABELS, VITALS, TRIGGERS, COMMANDS),
        writes=(PREDICTIONS, LABELS, VITALS, TRIGGERS, COMMANDS, DEAD_LETTER_RESOLUTIONS),
        readers=("ranges-",),
        transactions=("dlq",),
    ),
    "topics": Access("driftloop topics apply and check", keeps_topics=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One permission; a binding of Kafka's that allows ``operation`` from any host."""

    principal: str
    resource: Resource
    name: str
    pattern: Pattern
    operation: Operation

    def __str__(self) -> str:
        shown = f"{self.name}*" if self.pattern == "prefixed" else self.name
        return f"{self.principal} may {self.operation} {self.resource} {shown}"

    def command(self) -> str:
        """The arguments of Kafka's own kafka-acls.sh that add it."""
        operation = "".join(word.capitalize() for word in self.operation.split("-"))
        kind = f"--{self.resource} '{self.name}' --resource-pattern-type {self.pattern}"
        return f"--add --allow-principal '{self.principal}' --operation {operation} {kind}"


def acls_of(role: str, principal: str, connection: Connection) -> list[Acl]:
    """Everything that ``principal`` needs to be ``role`` in this deployment, and nothing else."""
    access = ROLES[role]
    acls = {
        *_on("topic", principal, "read", (connection.topic(topic) for topic in access.reads)),
        *_on("topic", principal, "write", (connection.topic(topic) for topic in access.writes)),
        *_on("topic", principal, "describe", (connection.topic(topic) for topic in access.looks_at)),
        *_on("group", principal, "read", map(connection.group, access.groups)),
        *_on("group", principal, "read", map(connection.group, access.readers), "prefixed"),
        *_on("group", principal, "describe", map(connection.group, access.watches)),
        *_on(
            "transactional-id",
            principal,
            "write",
            (f"{connection.prefix}{name}" for name in access.transactions),
            "prefixed",
        ),
    }
    if access.keeps_topics:
        names = [connection.topic(topic) for topic in CATALOGUE]
        operations: tuple[Operation, ...] = (
            "create", "describe", "describe-configs", "alter", "alter-configs"
        )  # fmt: skip
        acls |= {acl for operation in operations for acl in _on("topic", principal, operation, names)}
    return sorted(acls)


def _on(
    resource: Resource,
    principal: str,
    operation: Operation,
    names: Iterable[str],
    pattern: Pattern = "literal",
) -> list[Acl]:
    return [Acl(principal, resource, name, pattern, operation) for name in names]
