"""What each role is given to do in a trial, and how what became of it is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson
from confluent_kafka import Message, Producer
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.decisions import Command, CommandResult
from driftloop.schemas.events import DeadLetter, DeadLetterResolution
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import (
    COMMAND_RESULTS,
    COMMANDS,
    DEAD_LETTER_RESOLUTIONS,
    DEAD_LETTERS,
    LABELS,
    OUTCOMES,
    PREDICTIONS,
    VITALS,
    Topic,
)
from driftloop.schemas.vitals import Vitals
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.record import Record

from tests.support.join.world import entry_seqs, keyed, label, prediction
from tests.support.kafka.topics import read_topic

MODEL = "m"
SPEC = {"task": "classification", "classes": ["late", "on_time"], "features": {"hour": "number"}}
INSTANCE = "late-0"


@dataclass(frozen=True, slots=True)
class Damage:
    """Names of inputs that have no result, more than one, or a part of one."""

    lost: frozenset[str]
    twice: frozenset[str]
    torn: frozenset[str]


def damage_of(names: Iterable[str], results: Mapping[str, int], parts: Mapping[str, int]) -> Damage:
    """``results`` and ``parts``: how often each is there; both are written in one transaction."""
    return Damage(
        frozenset(name for name in names if not results.get(name)),
        frozenset(name for name, count in results.items() if count > 1),
        frozenset(name for name in {*results, *parts} if results.get(name, 0) != parts.get(name, 0)),
    )


class Work(Protocol):
    """What a role does: names are given to it one by one, and each must come out once and whole."""

    arguments: tuple[str, ...]
    transactional_id: str
    serves: bool  # whether it goes on until it is stopped; else it ends when it has done all
    output: Topic

    def give(self, names: Iterable[str]) -> None: ...

    def named(self, record: Record) -> str | None:
        """The name whose result this record of ``output`` is."""
        ...

    def damage(self, names: Iterable[str]) -> Damage: ...


class Joining:
    """Predictions with their labels; each gives one outcome, of which one message of vitals tells."""

    arguments = ("join",)
    transactional_id = f"join-join-{INSTANCE}"
    serves = True
    output = OUTCOMES

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer = Producer(connection.producer(linger_ms=1))
        apply_deployment(connection, Deployment(models={MODEL: ModelSpec.model_validate(SPEC)}))

    def give(self, names: Iterable[str]) -> None:
        for name in names:
            for topic, event in ((PREDICTIONS, prediction(name)), (LABELS, label(name, "late"))):
                key, value = keyed(event)
                self._producer.produce(self._connection.topic(topic), value, key)
        assert self._producer.flush(60) == 0

    def named(self, record: Record) -> str | None:
        return orjson.loads(record.value or b"")["prediction_id"]

    def damage(self, names: Iterable[str]) -> Damage:
        results, parts = Counter[str](), Counter[str]()
        at: dict[tuple[int, int], str] = {}
        in_vitals: Counter[tuple[int, int]] = Counter()
        for record in read_topic(self._connection, OUTCOMES, VITALS):
            value = record.value or b""
            if record.topic == self._connection.topic(OUTCOMES):
                outcome = orjson.loads(value)
                results[outcome["prediction_id"]] += 1
                at[record.partition, outcome["seq"]] = outcome["prediction_id"]
            elif value.startswith(b'{"vitals":'):
                vitals = Vitals.decode(value)
                in_vitals.update(
                    (vitals.partition, seq) for entry in vitals.models for seq in entry_seqs(entry)
                )
        for place, count in in_vitals.items():
            parts[at.get(place, f"nothing at {place}")] += count
        return damage_of(names, results, parts)


class Commanding:
    """Commands to a trainer; each gives one result, and a request to the policy."""

    arguments = ("train",)
    transactional_id = f"trainer-train-{INSTANCE}"
    serves = True
    output = COMMAND_RESULTS

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer = Producer(connection.producer(linger_ms=0))
        apply_deployment(connection, Deployment(models={MODEL: ModelSpec.model_validate(SPEC)}))

    def give(self, names: Iterable[str]) -> None:
        for name in names:
            command = Command(command_id=name, model=MODEL, action="trigger", ts=1_000, by="late")
            self._producer.produce(
                self._connection.topic(COMMANDS), command.encode(), MODEL, partition_of(MODEL, 1)
            )
        assert self._producer.flush(60) == 0

    def named(self, record: Record) -> str | None:
        return CommandResult.decode(record.value or b"").command_id

    def damage(self, names: Iterable[str]) -> Damage:
        results, parts = Counter[str](), Counter[str]()
        for record in read_topic(self._connection, COMMAND_RESULTS, VITALS):
            if record.topic == self._connection.topic(COMMAND_RESULTS):
                results[str(self.named(record))] += 1
            elif command := orjson.loads(record.value or b"{}").get("command_id"):
                parts[command] += 1
        return damage_of(names, results, parts)


class Replaying:
    """Dead letters; each is sent again once, and one record says so.

    Their bytes are cut and must be looked up, so a transaction takes two of them only.
    """

    arguments = ("dlq", "replay", "--all")
    transactional_id = "dlq"
    serves = False
    output = DEAD_LETTER_RESOLUTIONS

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer = Producer(connection.producer(linger_ms=0))

    def give(self, names: Iterable[str]) -> None:
        originals: list[Message] = []
        for name in names:
            key, value = keyed(label(name, "late"))
            topic = self._connection.topic(LABELS)
            self._producer.produce(topic, value, key, 0, on_delivery=lambda _, sent: originals.append(sent))
        assert self._producer.flush(60) == 0
        for original in originals:
            name, offset = (original.key() or b"").decode(), original.offset() or 0
            letter = DeadLetter(
                id=name, stage="join", topic=LABELS.name, partition=0, offset=offset, append_ms=0,
                reason="late", cut=True,
            )  # fmt: skip
            self._producer.produce(self._connection.topic(DEAD_LETTERS), letter.encode(), name)
        assert self._producer.flush(60) == 0

    def named(self, record: Record) -> str | None:
        return DeadLetterResolution.decode(record.value or b"").dead_letter_id

    def damage(self, names: Iterable[str]) -> Damage:
        results, on_labels = Counter[str](), Counter[str]()
        for record in read_topic(self._connection, DEAD_LETTER_RESOLUTIONS, LABELS):
            if record.topic == self._connection.topic(LABELS):
                on_labels[(record.key or b"").decode()] += 1
            else:
                results[str(self.named(record))] += 1
        sent_again = {name: count - 1 for name, count in on_labels.items()}
        return damage_of(names, results, sent_again)
