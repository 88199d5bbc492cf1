"""Feeding a joiner on real Kafka and reading back what it made of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from confluent_kafka import Producer
from driftloop.infra.cluster.books import read_books, total_of, unbalanced
from driftloop.schemas.errors import BrokerError, StateError
from driftloop.schemas.events import DeadLetter, Outcome
from driftloop.schemas.spec.model import Join
from driftloop.schemas.topics import DEAD_LETTERS, LABELS, OUTCOMES, PREDICTIONS, VITALS, Topic
from driftloop.schemas.vitals import Vitals
from driftloop.streams.join.shell import run_joiner
from driftloop.streams.join.state.books import Pending
from driftloop.streams.join.stats import JoinStats
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.record import Record

from tests.support.join.books import expected_books
from tests.support.join.oracle import ExpectedOutcomes, oracle
from tests.support.join.world import (
    LoggedRecord,
    errors_of,
    keyed,
    label,
    prediction,
    totals_of,
)
from tests.support.kafka.topics import read_topic
from tests.support.paths import ROOT
from tests.support.waiting import wait_until


@dataclass
class Feed:
    """Sends predictions and labels; ids are the deployment's own."""

    connection: Connection
    seed: int = 1
    sent: int = 0
    _made: int = field(default=0)

    def __post_init__(self) -> None:
        self._producer = Producer(self.connection.producer(linger_ms=1))
        self._draw = random.Random(self.seed)

    def raw(self, topic: Topic, value: bytes | None, key: bytes | None = None, **where: int) -> None:
        self._producer.produce(self.connection.topic(topic), value, key, **where)
        self.sent += 1

    def event(self, topic: Topic, event: dict[str, object]) -> None:
        key, value = keyed(event)
        self.raw(topic, value, key)

    def flush(self) -> None:
        assert self._producer.flush(60) == 0

    def mixture(self, ids: int) -> None:
        """Predictions, some with shadows; labels before and after: repeats, corrections, feedback."""
        events: list[tuple[Topic, dict[str, object]]] = []
        for _ in range(ids):
            name = f"id-{self._made}"
            self._made += 1
            answers = [prediction(name, self._draw.choice(["x", "y", None]))]
            if self._draw.random() < 0.2:
                answers.append(prediction(name, "y", version=2, role="shadow"))
            if self._draw.random() < 0.1:
                answers.append(answers[0])
            labels = [
                label(
                    name,
                    self._draw.choice(["x", "y"]),
                    source=self._draw.choice(["expert", "system", "user"]),
                )
                for _ in range(self._draw.choice([0, 1, 1, 1, 2, 3]))
            ]
            if self._draw.random() < 0.1:
                labels.append(label(name, correct=self._draw.random() < 0.5))
            both = [(PREDICTIONS, event) for event in answers] + [(LABELS, event) for event in labels]
            self._draw.shuffle(both)
            events += both
        for topic, event in events:
            self.event(topic, event)
        self.flush()


@dataclass
class Made:
    """Everything that lies on the topics, read committed to their present end."""

    predictions: list[Record]
    labels: list[Record]
    outcomes: list[tuple[int, Outcome]]
    dead_letters: list[DeadLetter]
    vitals: list[Vitals]

    def expected(self, join: Join | None = None) -> ExpectedOutcomes:
        """What the oracle says of the inputs that are on the topics and can be read."""
        return oracle(*(_sent(records) for records in (self.predictions, self.labels)), join or Join())

    def totals(self) -> Counter[str]:
        return totals_of(self.vitals)


def read_made(connection: Connection) -> Made:
    records = list(read_topic(connection, PREDICTIONS, LABELS, OUTCOMES, DEAD_LETTERS, VITALS))

    def of(topic: Topic) -> list[Record]:
        return [record for record in records if record.topic == connection.topic(topic)]

    return Made(
        of(PREDICTIONS),
        of(LABELS),
        [(record.partition, Outcome.decode(record.value or b"")) for record in of(OUTCOMES)],
        [DeadLetter.decode(record.value or b"") for record in of(DEAD_LETTERS)],
        [
            Vitals.decode(record.value or b"")
            for record in of(VITALS)
            if (record.value or b"").startswith(b'{"vitals":')
        ],
    )


def wait_for_outcomes(connection: Connection) -> Made:
    """Waits until the oracle's outcomes are there (or more), and gives everything."""

    def complete() -> Made | None:
        made = read_made(connection)
        return made if len(made.outcomes) >= len(made.expected().outcomes) else None

    return wait_until(complete, "all outcomes of the oracle")


def _sent(records: list[Record]) -> list[LoggedRecord]:
    sent: list[LoggedRecord] = []
    for record in records:
        try:
            event = orjson.loads(record.value or b"")
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict) and isinstance(event.get("prediction_id"), str):
            sent.append(LoggedRecord(event, record.append_ms))
    return sent


def assert_exactly(made: Made) -> None:
    """The outcomes are the oracle's, each once; seqs are whole; vitals tell of each exactly once."""
    expected = made.expected()
    got = Counter(((o.prediction_id, o.model, o.version, o.role), o.revision) for _, o in made.outcomes)
    assert not [key for key, count in got.items() if count > 1], "outcomes that came twice"
    assert {
        ((o.prediction_id, o.model, o.version, o.role), o.revision): (
            o.correct if o.label is None else o.label,
            o.error_value,
        )
        for _, o in made.outcomes
    } == expected.outcomes
    first = [(partition, o) for partition, o in made.outcomes if o.revision == 0]
    for number in {partition for partition, _ in first}:
        seqs = [o.seq for partition, o in first if partition == number]
        assert seqs == list(range(len(seqs)))
    own = {(o.prediction_id, o.version, o.role): o.seq for _, o in first}
    assert all(o.seq == own[o.prediction_id, o.version, o.role] for _, o in made.outcomes)
    assert errors_of(made.vitals) == {
        (p, o.seq): o.error_value for p, o in first if o.error_value is not None
    }
    totals = made.totals()
    assert totals["outcomes"] == len(first)
    assert totals["corrected"] == len(made.outcomes) - len(first)
    accepted = len(made.predictions) - expected.repeats_of_predictions - len(expected.refused_predictions)
    assert totals["predictions"] == accepted
    assert totals["duplicate"] == expected.repeats_of_predictions + expected.repeats_of_labels


def assert_books(connection: Connection, made: Made) -> None:
    """The books of each partition balance, and together they are the oracle's; nothing has expired."""
    books = read_books(connection)
    assert unbalanced(books) == {}
    for number, one in books.items():
        for records, account in ((made.predictions, one.predictions), (made.labels, one.labels)):
            assert account.read == sum(record.partition == number for record in records)
    expected, total = made.expected(), total_of(books)
    waiting = Pending(expected.unmatched, len(expected.unreached_labels))
    sent = (_sent(records) for records in (made.predictions, made.labels))
    assert total == expected_books(*sent, Join(), waiting)


def start_joiner(
    connection: Connection, folder: Path, name: str = "j0", *arguments: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.support.join.process", connection.bootstrap_servers,
            connection.prefix, str(folder), name, *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@contextmanager
def joiner_process(
    connection: Connection, folder: Path, name: str = "j0", *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A joiner that is stopped as a supervisor stops it; leaving without an error, or not at all."""
    process = start_joiner(connection, folder, name, *arguments)
    try:
        yield process
    finally:
        process.terminate()
        code = process.wait(60)
    assert code in (0, -signal.SIGTERM)  # the signal's own: it came before the joiner had begun


class ThreadedJoiner:
    """A joiner in a thread of the test, for errors and counters to be seen."""

    def __init__(
        self, connection: Connection, folder: Path, *, stats: JoinStats | None = None, **observed: object
    ) -> None:
        self.stats = stats or JoinStats()
        self.stop = threading.Event()
        self.error: Exception | None = None
        self._arguments = {"state_dir": folder, "instance_id": "j0", "stop": self.stop, "stats": self.stats}
        self._thread = threading.Thread(target=self._run, args=(connection, observed))
        self._thread.start()

    def _run(self, connection: Connection, observed: dict[str, object]) -> None:
        try:
            run_joiner(connection, **self._arguments, **observed)  # type: ignore[arg-type]
        except (BrokerError, StateError) as error:
            # confluent-kafka never lets go of what a callback raised; its frames would hold all clients.
            self.error = error.with_traceback(None)

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(60)
        assert self.ended()
