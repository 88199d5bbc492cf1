"""What Kafka keeps of a partition's position: both offsets, each with all of it as metadata."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from confluent_kafka import TopicPartition

from ...schemas.topics import LABELS, PREDICTIONS, Topic
from .state.position import Position


def offsets_of(names: Mapping[Topic, str], partition: int, position: Position) -> list[TopicPartition]:
    """Return what a transaction commits for one partition: both offsets, each with the whole position."""
    whole = orjson.dumps(position.numbers()).decode()
    return [
        TopicPartition(names[PREDICTIONS], partition, position.predictions, metadata=whole),
        TopicPartition(names[LABELS], partition, position.labels, metadata=whole),
    ]


def position_of(predictions: TopicPartition, labels: TopicPartition) -> Position | None:
    """Return the committed position; None before the first.

    Offsets that were set by hand come alone, or with another tool's metadata.
    """
    if predictions.offset < 0 and labels.offset < 0:
        return None
    bare = Position(max(0, predictions.offset), max(0, labels.offset), books=None)
    for committed in (predictions, labels):
        metadata = getattr(committed, "metadata", None)
        if metadata:
            try:
                whole = Position.of_numbers(orjson.loads(metadata))
            except (ValueError, TypeError):
                continue
            if whole.offsets == bare.offsets:
                return whole
    return bare
