"""What each role is given to do in a trial, and what became of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import orjson
from confluent_kafka import Message, Producer
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.decisions import Command, CommandResult
from driftloop.schemas.events import DeadLetter, DeadLetterResolution
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

    lost: frozenset[str] = frozenset()
    twice: frozenset[str] = frozenset()
    torn: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return self.lost | self.twice | self.torn


def damage_of(names: Iterable[str], results: Mapping[str, int], parts: Mapping[str, int]) -> Damage:
    """``results`` and ``parts``: how often each is there; both are written in one transaction."""
    return Damage(
        frozenset(name for name in names if not results.get(name)),
        frozenset(name for name, count in results.items() if count > 1),
        frozenset(name for name in {*results, *parts} if results.get(name, 0) != parts.get(name, 0)),
    )


class Written(NamedTuple):
    """How often the role wrote the result of each name, and what it writes along with that."""

    results: Counter[str]
    parts: Counter[str]


class Work(ABC):
    """What a role does: names are given to it one by one, and each must come out once and whole."""

    arguments: ClassVar[tuple[str, ...]]
    transactional_id: ClassVar[str]
    serves: ClassVar[bool] = True  # whether it goes on until it is stopped; else it ends when it has done all
    output: ClassVar[Topic]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer = Producer(connection.producer(linger_ms=1))
        apply_deployment(connection, Deployment(models={MODEL: ModelSpec.model_validate(SPEC)}))

    @abstractmethod
    def give(self, names: Iterable[str]) -> None:
        """Write what the role reads."""

    @abstractmethod
    def named(self, record: Record) -> str:
        """The name whose result this record of ``output`` is."""

    @abstractmethod
    def written(self) -> Written: ...

    def damage(self, names: Iterable[str]) -> Damage:
        return damage_of(names, *self.written())

    def _is_output(self, record: Record) -> bool:
        return record.topic == self._connection.topic(self.output)

    def _produce(self, topic: Topic, key: str | bytes, value: bytes, **options: Any) -> None:
        self._producer.produce(self._connection.topic(topic), value, key, **options)

    def _flush(self) -> None:
        assert self._producer.flush(60) == 0


class Joining(Work):
    """Predictions with their labels; each gives one outcome, of which one message of vitals tells."""

    arguments = ("join",)
    transactional_id = f"join-join-{INSTANCE}"
    output = OUTCOMES

    def give(self, names: Iterable[str]) -> None:
        for name in names:
            self._produce(PREDICTIONS, *keyed(prediction(name)))
            self._produce(LABELS, *keyed(label(name, "late")))
        self._flush()

    def named(self, record: Record) -> str:
        return orjson.loads(record.value or b"")["prediction_id"]

    def written(self) -> Written:
        results, parts = Counter[str](), Counter[str]()
        at: dict[tuple[int, int], str] = {}
        in_vitals: Counter[tuple[int, int]] = Counter()
        for record in read_topic(self._connection, OUTCOMES, VITALS):
            value = record.value or b""
            if self._is_output(record):
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
        return Written(results, parts)


class Commanding(Work):
    """Commands to a trainer; each gives one result, and a request to the policy."""

    arguments = ("train",)
    transactional_id = f"trainer-train-{INSTANCE}"
    output = COMMAND_RESULTS

    def give(self, names: Iterable[str]) -> None:
        for name in names:
            command = Command(command_id=name, model=MODEL, action="trigger", ts=1_000, by="late")
            self._produce(COMMANDS, MODEL, command.encode())
        self._flush()

    def named(self, record: Record) -> str:
        return CommandResult.decode(record.value or b"").command_id

    def written(self) -> Written:
        results, parts = Counter[str](), Counter[str]()
        for record in read_topic(self._connection, COMMAND_RESULTS, VITALS):
            if self._is_output(record):
                results[self.named(record)] += 1
            elif command := orjson.loads(record.value or b"{}").get("command_id"):
                parts[command] += 1
        return Written(results, parts)


class Replaying(Work):
    """Dead letters; each is sent again once, and one record says so.

    Their bytes are cut and must be looked up, so a transaction takes two of them only.
    """

    arguments = ("dlq", "replay", "--all")
    transactional_id = "dlq"
    serves = False
    output = DEAD_LETTER_RESOLUTIONS

    def give(self, names: Iterable[str]) -> None:
        originals: list[Message] = []
        for name in names:
            self._produce(
                LABELS, *keyed(label(name, "late")), on_delivery=lambda _, sent: originals.append(sent)
            )
        self._flush()
        for original in originals:
            name, offset = (original.key() or b"").decode(), original.offset() or 0
            dead_letter = DeadLetter(
                id=name, stage="join", topic=LABELS.name, partition=0, offset=offset, append_ms=0,
                reason="late", cut=True,
            )  # fmt: skip
            self._produce(DEAD_LETTERS, name, dead_letter.encode())
        self._flush()

    def named(self, record: Record) -> str:
        return DeadLetterResolution.decode(record.value or b"").dead_letter_id

    def written(self) -> Written:
        results, on_labels = Counter[str](), Counter[str]()
        for record in read_topic(self._connection, DEAD_LETTER_RESOLUTIONS, LABELS):
            if self._is_output(record):
                results[self.named(record)] += 1
            else:
                on_labels[(record.key or b"").decode()] += 1
        sent_again = Counter({name: count - 1 for name, count in on_labels.items()})
        return Written(results, sent_again)
