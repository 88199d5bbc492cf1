"""Records that lie where their id does not belong: sent on once, counted, shown, and joined."""

from __future__ import annotations

import signal
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer
from driftloop.infra.status.overview import read_overview
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.support.join.kafka import ThreadedJoiner, read_made, start_joiner
from tests.support.join.world import label, prediction
from tests.support.waiting import wait_until

IDS = 200


@pytest.mark.parametrize("partitioner", ["consistent", "random", "keyless", "other key"])
def test_records_of_other_partitioners_are_sent_to_their_place_exactly_once(
    kafka: Connection, tmp_path: Path, partitioner: str
) -> None:
    """``consistent`` is librdkafka's own default (CRC32). The joiner is killed while it sends them on."""
    given = partitioner if partitioner in ("consistent", "random") else "murmur2_random"
    producer = Producer(kafka.client(partitioner=given))
    process = start_joiner(kafka, tmp_path, "j0", "--die", "offsets sent", "3", "--max-batch", "40")
    for i in range(IDS):
        name = f"id-{i}"
        key = {"keyless": None, "other key": f"customer-{i % 7}"}.get(partitioner, name)
        for topic, event in ((PREDICTIONS, prediction(name, "x")), (LABELS, label(name, "y"))):
            producer.produce(kafka.topic(topic), orjson.dumps(event), key)
    assert producer.flush(60) == 0
    assert process.wait(60) == -signal.SIGKILL
    running = ThreadedJoiner(kafka, tmp_path)
    made = wait_until(
        lambda: made if len((made := read_made(kafka)).outcomes) >= IDS else None, "200 outcomes"
    )
    running.end()
    assert len({o.prediction_id for _, o in made.outcomes}) == len(made.outcomes) == IDS
    misrouted = len(made.predictions) + len(made.labels) - 2 * IDS
    assert made.totals()["misrouted"] == misrouted > 50
    assert made.totals()["predictions"] == IDS
    assert made.dead_letters == []
    assert 0 < running.stats.misrouted <= misrouted
    assert read_overview(kafka).misrouted == misrouted
