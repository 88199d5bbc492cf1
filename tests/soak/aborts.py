"""Faults made of transactions: ones that are aborted, and a role's own one that somebody else ends."""

from __future__ import annotations

import random
import uuid

from confluent_kafka import Producer
from driftloop.schemas.topics import LABELS, OUTCOMES, PREDICTIONS, VITALS, Topic
from driftloop.streams.kafka.connection import Connection

_TOPICS: tuple[Topic, ...] = (OUTCOMES, VITALS, PREDICTIONS, LABELS)
ABORTED = b"aborted"  # how each of these records begins
_CALL_S = 30.0


def write_and_abort(connection: Connection, partitions: dict[str, int], seed: int) -> None:
    """Nonsense in every partition of four topics, none of which anybody must ever see."""
    chance = random.Random(seed)
    producer = Producer(connection.transactional(f"soak-{uuid.uuid4().hex}"))
    producer.init_transactions(_CALL_S)
    for _ in range(3):
        producer.begin_transaction()
        for topic in _TOPICS:
            for number in range(partitions[topic.name]):
                producer.produce(connection.topic(topic), ABORTED + chance.randbytes(20), partition=number)
        producer.flush(_CALL_S)
        producer.abort_transaction(_CALL_S)


def fence(connection: Connection, transactional_id: str) -> None:
    """Takes over a role's transactional.id: its open transaction is aborted, and the role is fenced."""
    Producer(connection.transactional(transactional_id)).init_transactions(_CALL_S)
