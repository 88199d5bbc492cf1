"""One assigned input partition: its joiner, its store, and where its topics have been read to."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import orjson
from confluent_kafka import Message, TopicPartition

from ...schemas.topics import LABELS, PREDICTIONS, Topic
from .batch_output import Effects
from .config import JoinTuning
from .core import Joiner
from .pacing import Pacing
from .reading.batch import Batch, Reader
from .reading.columns import append_ms_of, columns_of, offset_of
from .rules import Rules
from .state.state import Position
from .state.store import RocksStore

INPUTS = (PREDICTIONS, LABELS)

_PATIENCE_S = 1.0  # with a topic of which nothing comes, as when its broker is away


class AssignedPartition:
    """``restoring``: the steps that are left until it may process; None once it does."""

    def __init__(
        self,
        joiner: Joiner,
        reader: Reader,
        store: RocksStore,
    ) -> None:
        self.number = joiner.partition
        self.joiner = joiner
        self.restoring: Generator[int, None, None] | None = None
        self.flushed_at = 0.0
        self.flushed_position = joiner.position
        self.reader = reader
        self.store = store
        self.paused: set[Topic] = set()
        self._pacing = Pacing(append_ms_of)
        # Per topic: the offset behind the last record fetched, and when that was; where it was seen to end,
        # until its next record; append time below which, being idle, it is known to get nothing more.
        self._fetched_to: dict[Topic, int] = {}
        self._fetched_at: dict[Topic, float] = {}
        self._ends: dict[Topic, int] = {}
        self._floors_ms: dict[Topic, int] = {}

    def next_offset(self, topic: Topic) -> int:
        position = self.joiner.position
        return position.predictions if topic is PREDICTIONS else position.labels

    def clock_ms(self, topic: Topic) -> int:
        position = self.joiner.position
        newest = position.predictions_ms if topic is PREDICTIONS else position.labels_ms
        return max(newest, self._floors_ms.get(topic, 0))

    def saw_end(self, topic: Topic, offset: int) -> None:
        self._ends[topic] = offset

    def end(self, topic: Topic) -> int | None:
        """Where the topic was seen to end, and all before it is processed; None where it is not so."""
        if self._fetched_to.get(topic, 0) > self.next_offset(topic):
            return None
        return self._ends.get(topic)

    def is_idle_until(self, topic: Topic, time_ms: int) -> None:
        """The topic still ended there after a record of this append time was seen elsewhere."""
        self._floors_ms[topic] = max(time_ms, self._floors_ms.get(topic, 0))

    def held(self, topic: Topic) -> int:
        """How many of its records were fetched and wait for the other topic."""
        return self._pacing.held(topic)

    def pass_on(
        self,
        fetched: Mapping[Topic, list[Message]],
        ends: Mapping[Topic, int],
        now: float,
        tuning: JoinTuning,
    ) -> dict[Topic, list[Message]]:
        """What is to be read now of what was fetched; the rest is held back (see ``join.pacing``).

        ``ends``: of both topics, as far as they are known; below 0 where they are not.
        """
        new: dict[Topic, list[Message]] = {}
        for topic, messages in fetched.items():
            since = self._fetched_to.get(topic, 0)
            if offset_of(messages[0]) < since:  # once more, as after a pause
                messages = [message for message in messages if offset_of(message) >= since]
            if messages:
                new[topic] = messages
                self._fetched_to[topic] = offset_of(messages[-1]) + 1
                self._fetched_at[topic] = now
                if self._ends.get(topic, 0) < self._fetched_to[topic]:
                    self._ends.pop(topic, None)
        more = {
            topic: topic not in self._ends
            and now - self._fetched_at.setdefault(topic, now) < _PATIENCE_S
            and ends[topic] - self._fetched_to.get(topic, self.next_offset(topic)) > tuning.backlog
            for topic in INPUTS
        }
        return self._pacing.pass_on(new, more, tuning.max_batch)

    def forget_fetched(self) -> None:
        """Both topics are sought anew, to where the joiner stands."""
        self._pacing.clear()
        self._fetched_to.clear()
        self._fetched_at.clear()
        self._ends.clear()

    def read(self, messages: Mapping[Topic, Sequence[Message]]) -> Batch:
        return self.reader.read(
            *(columns_of(messages.get(topic, ()), self.next_offset(topic)) for topic in INPUTS)
        )

    def process(self, batch: Batch, rules: Rules) -> Effects:
        self.joiner.rules = rules
        return self.joiner.process(
            batch,
            predictions_floor_ms=self._floors_ms.get(PREDICTIONS, 0),
            labels_floor_ms=self._floors_ms.get(LABELS, 0),
        )

    def restore_step(self) -> int | None:
        """How many records were replayed; None once all is restored."""
        if self.restoring is not None:
            for replayed in self.restoring:
                return replayed
        self.restoring = None
        return None

    @property
    def has_moved(self) -> bool:
        """Whether the disk is behind."""
        return self.flushed_position != self.joiner.position

    def flush(self, now: float) -> None:
        self.joiner.flush()
        self.flushed_at = now
        self.flushed_position = self.joiner.position

    def begin_with(self, joiner: Joiner, store: RocksStore) -> None:
        """Exchanges the state for another one of the same partition; the former store is closed already."""
        self.joiner, self.store = joiner, store
        self.flushed_position = joiner.position

    def close(self) -> None:
        """Writes what is committed; what is staged belongs to nobody."""
        if self.restoring is not None:
            self.restoring.close()
        self.joiner.rollback()
        self.joiner.flush()
        self.store.close()


def offsets_of(names: Mapping[Topic, str], partition: int, position: Position) -> list[TopicPartition]:
    """What a transaction commits for one partition: both offsets, each with the whole position."""
    whole = orjson.dumps(tuple(position)).decode()
    return [
        TopicPartition(names[PREDICTIONS], partition, position.predictions, metadata=whole),
        TopicPartition(names[LABELS], partition, position.labels, metadata=whole),
    ]


def position_of(predictions: TopicPartition, labels: TopicPartition) -> Position | None:
    """The position that was committed; None before the first. Offsets that were set by hand come alone."""
    if predictions.offset < 0 and labels.offset < 0:
        return None
    bare = Position(max(0, predictions.offset), max(0, labels.offset))
    for committed in (predictions, labels):
        metadata = getattr(committed, "metadata", None)
        if metadata:
            whole = Position._make(orjson.loads(metadata))
            if whole[:2] == bare[:2]:
                return whole
    return bare
