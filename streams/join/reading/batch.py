"""Reading one batch of an input partition: what each record is, where it belongs, and what cannot be used.

A record belongs on the partition of its payload's prediction_id, whatever its key says. A misrouted one
(another partitioner, no key) is forwarded to where it belongs, once: it carries where it came from, and if it
is misrouted again, something is wrong that forwarding cannot repair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from ....schemas.dead_letters import MAX_HEADER_BYTES, dead_letter
from ....schemas.topics import LABELS, PREDICTIONS, Topic
from .events import ReadLabel, read_labels, read_predictions
from .placement import ORIGIN_HEADER, partitions_of
from .plain import PredictionEvent

STAGE = "join"
Header = tuple[str, str | bytes | None]
Headers = Sequence[Header]
Event = TypeVar("Event", PredictionEvent, ReadLabel)


def _no_headers(_index: int) -> Headers:
    return ()


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of one topic partition, as columns. ``headers`` are rarely asked for."""

    values: Sequence[bytes | None] = ()
    keys: Sequence[bytes | None] = ()
    offsets: Sequence[int] = ()
    append_ms: Sequence[int] = ()
    headers: Callable[[int], Headers] = _no_headers

    def __len__(self) -> int:
        return len(self.values)

    def refused(self, topic: Topic, partition: int, index: int, reason: str) -> RefusedRecord:
        return RefusedRecord(
            topic,
            partition,
            self.offsets[index],
            self.append_ms[index],
            self.keys[index],
            self.values[index],
            reason,
            self.headers(index),
        )


class RefusedRecord(NamedTuple):
    """A record that the joiner cannot use, and why."""

    topic: Topic
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    reason: str
    headers: Headers = ()

    def dead_letter(self, topic_name: str) -> bytes:
        """Return its dead letter, encoded. ``topic_name``: on the cluster."""
        return dead_letter(
            STAGE,
            topic_name,
            self.partition,
            self.offset,
            self.reason,
            append_ms=self.append_ms,
            key=self.key,
            value=self.value,
            headers=self.headers,
        ).encode()


class MisroutedRecord(NamedTuple):
    """A record for the partition where it belongs, as it was, with its origin among the headers."""

    topic: Topic
    partition: int
    key: bytes
    value: bytes
    headers: list[Header]


@dataclass(slots=True)
class Batch:
    """Events in their partitions' order; None where a record is refused or belongs elsewhere.

    ``prefixes``: of the predictions' outcomes. ``label_ids``: the labels' prediction ids as bytes.
    """

    prediction_records: Records
    label_records: Records
    predictions: list[PredictionEvent | None] = field(default_factory=list[PredictionEvent | None])
    prefixes: list[bytes] = field(default_factory=list[bytes])
    labels: list[ReadLabel | None] = field(default_factory=list[ReadLabel | None])
    label_ids: list[bytes] = field(default_factory=list[bytes])
    refused: list[RefusedRecord] = field(default_factory=list[RefusedRecord])
    misrouted: list[MisroutedRecord] = field(default_factory=list[MisroutedRecord])

    def __len__(self) -> int:
        return len(self.prediction_records) + len(self.label_records)

    def models(self) -> set[str]:
        return {event.model for event in self.predictions if event is not None}

    def ids(self) -> list[str]:
        """Return the ids of all records; an id of two records comes twice."""
        ids = [event.prediction_id for event in self.predictions if event is not None]
        ids += [label.prediction_id for label in self.labels if label is not None]
        return ids


class BatchReader:
    """Reads batches of one of ``partitions`` input partitions."""

    def __init__(self, partition: int, partitions: int) -> None:
        self.partition = partition
        self._partitions = partitions

    def read(
        self,
        predictions: Records,
        labels: Records,
        *,
        skip_predictions: AbstractSet[int] = frozenset(),
        skip_labels: AbstractSet[int] = frozenset(),
    ) -> Batch:
        """Read a batch. ``skip_…``: offsets that were refused when they were first read."""
        batch = Batch(predictions, labels)
        batch.predictions, batch.prefixes = read_predictions(
            predictions.values,
            lambda index, reason: self._refuse(batch, PREDICTIONS, predictions, index, reason),
        )
        batch.labels = read_labels(
            labels.values, lambda index, reason: self._refuse(batch, LABELS, labels, index, reason)
        )
        _skip(batch.predictions, predictions, skip_predictions)
        _skip(batch.labels, labels, skip_labels)
        self._check_placement(PREDICTIONS, predictions, batch.predictions, batch)
        batch.label_ids = self._check_placement(LABELS, labels, batch.labels, batch)
        return batch

    def _check_placement(
        self, topic: Topic, records: Records, events: list[Event | None], batch: Batch
    ) -> list[bytes]:
        """Take out what belongs elsewhere; return the ids as bytes."""
        ids = [b"" if event is None else event.prediction_id.encode() for event in events]
        belongs = partitions_of(ids, self._partitions)
        for index in (belongs != self.partition).nonzero()[0].tolist():
            if events[index] is None:
                continue
            events[index] = None
            headers = list(records.headers(index))
            if any(name == ORIGIN_HEADER for name, _ in headers):
                reason = f"misrouted: belongs on partition {belongs[index]} and was sent on once already"
                self._refuse(batch, topic, records, index, reason)
                continue
            if sum(len(name) + len(value or b"") for name, value in headers) > MAX_HEADER_BYTES:
                reason = f"misrouted: belongs on partition {belongs[index]}, and its headers are too large"
                self._refuse(batch, topic, records, index, reason)
                continue
            origin = f"{topic.name}/{self.partition}/{records.offsets[index]}".encode()
            batch.misrouted.append(
                MisroutedRecord(
                    topic,
                    int(belongs[index]),
                    ids[index],
                    records.values[index] or b"",
                    [*headers, (ORIGIN_HEADER, origin)],
                )
            )
        return ids

    def _refuse(self, batch: Batch, topic: Topic, records: Records, index: int, reason: str) -> None:
        batch.refused.append(records.refused(topic, self.partition, index, reason))


def _skip(events: list[Event | None], records: Records, offsets: AbstractSet[int]) -> None:
    if offsets:
        for index, offset in enumerate(records.offsets):
            if offset in offsets:
                events[index] = None
