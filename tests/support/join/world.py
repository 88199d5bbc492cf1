"""One input partition without a broker: two logs, and a joiner that may die at any moment."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import orjson
from driftloop.schemas.base import ClassValue
from driftloop.schemas.events import DeadLetter, Outcome
from driftloop.schemas.spec.model import Join, ModelSpec
from driftloop.schemas.vitals import ModelVitals, Vitals
from driftloop.streams.join.batch_output import BatchOutput
from driftloop.streams.join.core import Joiner
from driftloop.streams.join.matching.rules import ModelRules, Rules
from driftloop.streams.join.reading.batch import BatchReader, Records
from driftloop.streams.join.state.join_state import StateStore
from driftloop.streams.join.state.position import Position, Watermarks

from tests.support.join.memory_store import MemoryStore

JOIN = Join(horizon=60_000, early_horizon=20_000, correction_window=30_000, clock_skew=1_000)


@dataclass(frozen=True)
class LoggedRecord:
    """A record as it lies on its topic."""

    event: dict[str, object]
    append_ms: int

    @property
    def value(self) -> bytes:
        return orjson.dumps(self.event)


def prediction(
    name: str,
    answer: ClassValue | None = "late",
    *,
    model: str = "m",
    version: int = 1,
    role: str = "champion",
) -> dict[str, object]:
    event: dict[str, object] = {
        "prediction_id": name,
        "model": model,
        "version": version,
        "ts": 1_000,
        "features": {"hour": 5, "carrier": "UA"},
        "role": role,
    }
    return event | ({"error": "no answer"} if answer is None else {"prediction": answer})


def label(
    name: str, value: ClassValue | None = None, *, correct: bool | None = None, source: str = "system"
) -> dict[str, object]:
    said: dict[str, object] = {"label": value} if correct is None else {"correct": correct}
    return {"prediction_id": name, "ts": 4_000, **said, "source": source}


def keyed(event: dict[str, object]) -> tuple[bytes, bytes]:
    """Key and value of the event's record."""
    return str(event["prediction_id"]).encode(), orjson.dumps(event)


def rules_of(join: Join, **specs: ModelSpec) -> Rules:
    return Rules(join, {name: ModelRules.of(spec) for name, spec in specs.items()})


@dataclass
class JoinWorld:
    """Logs, what was committed to them, and the joiner that works on them."""

    rules: Rules
    predictions: list[LoggedRecord] = field(default_factory=list[LoggedRecord])
    labels: list[LoggedRecord] = field(default_factory=list[LoggedRecord])
    committed: Position | None = None
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    outcomes_ms: list[int] = field(default_factory=list[int])  # when each was appended
    dead_letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    vitals: list[Vitals] = field(default_factory=list[Vitals])
    now_ms: int = 100_000
    capacity: int = 4
    store: StateStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.reader = BatchReader(0, 1)
        self.joiner = self._new_joiner()

    def _new_joiner(self) -> Joiner:
        return Joiner(0, self.store, self.rules, vitals_partitions=2, capacity=self.capacity)

    def send(self, *events: dict[str, object]) -> None:
        """Append each prediction and each label to its topic."""
        for event in events:
            log = self.predictions if "model" in event else self.labels
            log.append(LoggedRecord(event, self.now_ms))

    def join(self, *events: dict[str, object]) -> None:
        """Send the events, and join all that was sent."""
        self.send(*events)
        self.batch()

    def process(self, predictions: int, labels: int) -> BatchOutput:
        """Stage the next records of both topics; a topic read to its end has an idle watermark."""
        at = self.joiner.position
        next_predictions = _records(self.predictions, at.predictions, predictions)
        next_labels = _records(self.labels, at.labels, labels)
        predictions_done = at.predictions + len(next_predictions) == len(self.predictions)
        labels_done = at.labels + len(next_labels) == len(self.labels)
        return self.joiner.process(
            self.reader.read(next_predictions, next_labels),
            Watermarks(self.now_ms if predictions_done else 0, self.now_ms if labels_done else 0),
        )

    def batch(self, predictions: int = 1_000_000, labels: int = 1_000_000, *, commits: bool = True) -> None:
        output = self.process(predictions, labels)
        if not commits:
            self.joiner.rollback()
            return
        self.log(output)
        self.joiner.commit()
        assert self.joiner.books.difference == (0, 0), self.joiner.books

    def log(self, output: BatchOutput) -> None:
        """The transaction commits: what it holds is in the log, and the offsets are the group's."""
        self.outcomes += [Outcome.decode(value) for _, value in output.outcomes]
        self.outcomes_ms += [self.now_ms] * len(output.outcomes)
        self.vitals += [Vitals.decode(value) for _, value in output.vitals]
        self.dead_letters += [DeadLetter.decode(one.dead_letter(one.topic.name)) for one in output.refused]
        self.committed = self.joiner.staged_position

    def die(self, *, disk_lost: bool = False) -> None:
        """The process ends; another one starts with what is on disk."""
        if disk_lost:
            self.store = MemoryStore()
        self.joiner = self._new_joiner()

    def restore(self, *, steps: int = 2, dies_after: int | None = None) -> None:
        """Replays up to the committed position, ``steps`` records of each topic at a time.

        ``dies_after``: so many steps later the process ends again, having written what it had.
        """
        target = self.committed
        if target is None:
            return
        since_ms = self.joiner.begin_restore(Position())
        refused = {(one.topic, one.offset) for one in self.dead_letters}
        done = 0
        while not self.at(target):
            at = self.joiner.position
            batch = self.reader.read(
                _records(self.predictions, at.predictions, min(steps, target.predictions - at.predictions)),
                _records(self.labels, at.labels, min(steps, target.labels - at.labels)),
                skip_predictions={offset for topic, offset in refused if topic == "predictions"},
                skip_labels={offset for topic, offset in refused if topic == "labels"},
            )
            self.joiner.replay(batch, target.expired)
            done += 1
            if done == dies_after:
                self.joiner.flush()
                self.die()
                return self.restore(steps=steps)
        for outcome, append_ms in zip(self.outcomes, self.outcomes_ms, strict=True):
            if append_ms >= since_ms:
                self.joiner.replay_outcome(outcome.encode(), append_ms)
        self.joiner.finish_restore(target)
        assert self.joiner.books == target.books
        return None

    def at(self, target: Position) -> bool:
        """Whether the joiner has read as far as ``target`` on both topics."""
        at = self.joiner.position
        return (at.predictions, at.labels) == (target.predictions, target.labels)

    def totals(self) -> Counter[str]:
        return totals_of(self.vitals)

    def errors(self) -> dict[int, float]:
        """seq → error, as vitals tell it."""
        return {seq: error for (_, seq), error in errors_of(self.vitals).items()}


def totals_of(vitals: list[Vitals]) -> Counter[str]:
    """What all vitals together count."""
    totals: Counter[str] = Counter()
    for message in vitals:
        for counts in (message.counts, *(entry.counts for entry in message.models)):
            totals.update(counts.model_dump())
    return totals


def errors_of(vitals: list[Vitals]) -> dict[tuple[int, int], float]:
    """(partition, seq) → error, as vitals tell it; each once."""
    found: dict[tuple[int, int], float] = {}
    for message in vitals:
        for entry in message.models:
            errors = entry.errors.values() if entry.errors else ()
            for seq, error in zip(entry_seqs(entry), errors, strict=True):
                assert (message.partition, seq) not in found
                found[message.partition, seq] = float(error)
    return found


def entry_seqs(entry: ModelVitals) -> list[int]:
    """The seq of each error of an entry, as schemas/vitals.py describes them."""
    if entry.errors is None:
        return []
    if entry.seqs is None:
        return list(range(entry.first_seq, entry.first_seq + entry.errors.count))
    gaps = np.frombuffer(base64.b64decode(entry.seqs), dtype="<u4")
    return [entry.first_seq, *(entry.first_seq + int(gap) for gap in np.cumsum(gaps))]


def _records(log: list[LoggedRecord], start: int, count: int) -> Records:
    part = log[start : start + count]
    return Records(
        [sent.value for sent in part],
        [str(sent.event["prediction_id"]).encode() for sent in part],
        list(range(start, start + len(part))),
        [sent.append_ms for sent in part],
    )
