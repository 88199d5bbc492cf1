"""Roles when Kafka is away: they wait and go on, and stop in time even when nobody answers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
from confluent_kafka import Producer
from driftloop.infra.broker.embedded import EmbeddedBroker
from driftloop.infra.cluster.topics import apply_topics
from driftloop.schemas.topics import LABELS, PREDICTIONS, VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader

from tests.soak.monitor.run import PARTITIONS, Report, VitalsWriter, Worker, compare
from tests.soak.monitor.subjects import SUBJECTS
from tests.support.join.world import label, prediction
from tests.support.monitor.progress import MonitorProgress
from tests.support.paths import ROOT
from tests.support.stopwatch import stopped
from tests.support.waiting import wait_until


def with_topics(broker: EmbeddedBroker, prefix: str) -> Connection:
    connection = Connection(broker.bootstrap_servers, prefix)
    apply_topics(connection, data_partitions=PARTITIONS, model_partitions=PARTITIONS)
    return connection


def joiner_of(connection: Connection, state: Path) -> subprocess.Popen[bytes]:
    place = (connection.bootstrap_servers, connection.prefix, str(state), "join-0")
    return subprocess.Popen([sys.executable, "-m", "tests.support.join.process", *place], cwd=ROOT)


def write(connection: Connection, seed: int, transactions: int) -> None:
    writer = VitalsWriter(connection, SUBJECTS["chain"], seed, rate=200.0)
    writer.start()
    wait_until(lambda: writer.committed >= transactions, "vitals written")
    writer.stop()


def test_an_outage_is_waited_out_and_a_frozen_kafka_does_not_delay_the_stop(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    connection = with_topics(own_broker, "outage.")
    write(connection, 1, 20)
    worker = Worker(connection, "monitor-0", tmp_path)
    worker.wait_applying()
    own_broker.kill_node(1)
    own_broker.start_node(1)
    write(connection, 2, 20)
    with contextlib.closing(MonitorProgress(connection)) as progress:
        wait_until(lambda: progress.behind() == 0, "the monitor went on after the outage")
    assert worker.process.poll() is None, worker.text()
    os.kill(own_broker.pids[1], signal.SIGSTOP)
    try:
        assert stopped(worker.process) < 5.5
    finally:
        os.kill(own_broker.pids[1], signal.SIGCONT)
    successor = Worker(connection, "monitor-0", tmp_path)
    write(connection, 3, 20)
    with contextlib.closing(MonitorProgress(connection)) as progress:
        wait_until(lambda: progress.behind() == 0, "the successor has applied everything")
    successor.terminate()
    report = Report()
    compare(connection, SUBJECTS["chain"], report)
    assert report.exact, report
    assert report.records > 0


def feed(connection: Connection, stop: threading.Event) -> None:
    """Pairs of a prediction and its label, a few hundred a second."""
    producer = Producer(connection.producer(linger_ms=0))
    number = 0
    while not stop.wait(0.002):
        number += 1
        name = f"p{number}"
        producer.produce(connection.topic(PREDICTIONS), orjson.dumps(prediction(name)), name)
        producer.produce(connection.topic(LABELS), orjson.dumps(label(name, "late")), name)
        producer.poll(0)
    producer.purge()


def test_a_joiner_whose_broker_is_gone_within_a_batch_stops_in_time(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    connection = with_topics(own_broker, "gone.")
    enough = threading.Event()
    feeding = threading.Thread(target=feed, args=(connection, enough))
    feeding.start()
    joiner = joiner_of(connection, tmp_path / "state")
    try:
        with contextlib.closing(LogReader(connection, (VITALS,))) as vitals:
            wait_until(lambda: bool(vitals.poll(0.1)), "the joiner joins")
        own_broker.kill_node(1)
        time.sleep(3)  # it has met the outage: a call of librdkafka waits for it to end
        assert stopped(joiner) < 5.5
    finally:
        enough.set()
        feeding.join()
        joiner.kill()


def test_a_frozen_kafka_does_not_delay_a_joiners_stop(own_broker: EmbeddedBroker, tmp_path: Path) -> None:
    connection = with_topics(own_broker, "frozen.")
    folder = tmp_path / "state"
    joiner = joiner_of(connection, folder)
    try:
        wait_until(lambda: list(folder.glob("partition-*/CURRENT")), "the joiner has its partitions")
        os.kill(own_broker.pids[1], signal.SIGSTOP)
        try:
            assert stopped(joiner) < 5.5
        finally:
            os.kill(own_broker.pids[1], signal.SIGCONT)
    finally:
        joiner.kill()
