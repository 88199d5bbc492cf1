"""Emitting: what is wrong is an error at once, what is right arrives once, nothing waits for Kafka."""

from __future__ import annotations

import functools
import operator
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import KafkaError
from driftloop.infra import api
from driftloop.schemas.errors import SettingsError
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import LABELS, PREDICTIONS, SPECS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import ClientClosed, EventClient
from driftloop.streams.serve.delivery.outbox import Dropped
from driftloop.streams.serve.delivery.overflow import Overflow, QueuedEvent
from driftloop.streams.serve.prediction_ids import new_prediction_id
from driftloop.streams.serve.privacy import Hasher, PrivacyRules

from tests.support.kafka.forwarding import forwarded
from tests.support.kafka.topics import write
from tests.support.serve.bench import ServingBench, numpy_values
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

HASHER = Hasher(b"a key of the deployment")


@pytest.fixture
def client(topics: Connection) -> Iterator[EventClient]:
    with EventClient(topics, hasher=HASHER) as made:
        yield made


def test_what_was_emitted_arrives_as_it_was_meant(bench: ServingBench, client: EventClient) -> None:
    known = client.prediction(
        "m", 3, {"x": 1.5, "n": None, "ok": True, "city": "Århus"}, "late",
        ts=1_700_000_000_000, scores={"late": 0.75, "on_time": 0.25}, latency_ms=0.5,
        segments={"carrier": "AA"}, role="shadow",
    )  # fmt: skip
    failed = client.prediction("m", 3, {"x": 1}, error="the model is out")
    client.label(known, "on_time", ts=1_700_000_001_000, source="expert", annotator="ann")
    client.label(failed, correct=False)
    assert client.flush() == 0
    by_id = {event.prediction_id: event for event in bench.predictions()}
    assert by_id[known].model_dump(exclude_none=True) == {
        "prediction_id": known, "model": "m", "version": 3, "ts": 1_700_000_000_000,
        "features": {"x": 1.5, "n": None, "ok": True, "city": "Århus"}, "prediction": "late",
        "scores": {"late": 0.75, "on_time": 0.25}, "latency_ms": 0.5, "segments": {"carrier": "AA"},
        "role": "shadow",
    }  # fmt: skip
    assert (by_id[failed].error, by_id[failed].prediction) == ("the model is out", None)
    assert abs(by_id[failed].ts - time.time() * 1000) < 60_000
    labels = {event.prediction_id: event for event in bench.labels()}
    given = labels[known]
    assert (given.label, given.source, given.annotator) == ("on_time", "expert", "ann")
    assert (labels[failed].correct, labels[failed].label) == (False, None)
    assert (client.stats.emitted, client.stats.waiting, client.stats.dropped) == (4, 0, 0)


def test_predictions_and_labels_of_an_id_share_javas_partition(
    bench: ServingBench, client: EventClient
) -> None:
    ids = [client.prediction("m", 1, {}, 1.0) for _ in range(40)]
    for known in ids:
        client.label(known, 1.0)
    client.flush()
    for topic in (PREDICTIONS, LABELS):
        records = bench.read(topic)
        assert len(records) == 40
        assert {record.partition for record in records} == {0, 1}
        assert all(record.partition == partition_of(record.key or b"", 2) for record in records)
        assert {(record.key or b"").decode() for record in records} == set(ids)


def test_numpy_scalars_travel_as_plain_values(bench: ServingBench, client: EventClient) -> None:
    client.prediction(
        "m", 1, numpy_values(), np.float32(0.25), scores={"a": np.float64(0.5)},
        segments={"s": np.int16(4)}, latency_ms=np.float64(1.5),
    )  # fmt: skip
    client.flush()
    (event,) = bench.predictions()
    assert event.features == {
        "f4": 0.5, "f8": 2.5, "i": -3, "u": 7, "b": True, "s": "JFK", "none": None, "plain": 1,
    }  # fmt: skip
    assert (event.prediction, event.scores, event.segments) == (0.25, {"a": 0.5}, {"s": 4})


def test_private_features_leave_only_as_the_published_spec_allows(
    bench: ServingBench, client: EventClient
) -> None:
    bench.apply_spec(
        features={
            "x": "number",
            "tail": {"type": "category", "privacy": "hash"},
            "name": {"type": "category", "privacy": "drop"},
        }
    )
    for tail in ("N123", "N123", "N999", None):
        client.prediction(
            "m", 1, {"x": 1.0, "tail": tail, "name": "Ann"}, 1.0,
            segments={"tail": tail, "name": "Ann", "hub": "yes"},
        )  # fmt: skip
    assert client.flush() == 0
    values = [record.value or b"" for record in bench.read(PREDICTIONS)]
    assert len(values) == 4
    assert not any(b"N123" in value or b"N999" in value or b"Ann" in value for value in values)
    hashes = sorted(str(event.features["tail"]) for event in bench.predictions())
    expected = [HASHER.hash("tail", tail) for tail in ("N123", "N123", "N999", None)]
    assert hashes == sorted(str(value) for value in expected)
    for event in bench.predictions():
        assert event.segments is not None
        assert event.features.keys() == {"x", "tail"}
        assert event.segments["hub"] == "yes"
        assert event.segments.get("tail") == event.features["tail"]
        assert "name" not in event.segments


def test_without_a_key_hashed_features_do_not_leave_at_all(bench: ServingBench) -> None:
    bench.apply_spec(features={"tail": {"type": "category", "privacy": "hash"}})
    drops: list[Dropped] = []
    with EventClient(bench.connection, on_drop=drops.append) as client:
        client.prediction("m", 1, {"tail": "N123"}, 1.0)
        client.prediction("other", 1, {"tail": "N123"}, 1.0)
        assert client.flush() == 0
    assert [event.model for event in bench.predictions()] == ["other"]
    assert [drop.reason for drop in drops] == [
        "feature tail must leave the server as a hash, and there is no key: set DRIFTLOOP_HASH_KEY, the "
        "same on every server (`openssl rand -hex 32` makes one)"
    ]


def test_an_unreadable_spec_lets_nothing_leave(bench: ServingBench) -> None:
    write(bench.connection, (SPECS, "m", b'{"model":"m","digest":"","ts":1,"spec":{"task":"guessing"}}'))
    drops: list[Dropped] = []
    with EventClient(bench.connection, on_drop=drops.append) as client:
        client.prediction("m", 1, {"x": 1}, 1.0)
        client.flush()
    assert bench.read(PREDICTIONS) == []
    assert "the published spec of m cannot be read" in drops[0].reason


def test_rules_that_are_given_need_no_topic(bench: ServingBench) -> None:
    with EventClient(bench.connection, privacy={"tail": "hash", "name": "drop"}, hasher=HASHER) as client:
        client.prediction("m", 1, {"tail": "N1", "name": "Ann", "x": 1}, 1.0)
    (event,) = bench.predictions()
    assert event.features == {"tail": HASHER.hash("tail", "N1"), "x": 1}
    with pytest.raises(SettingsError, match="there is no key: set DRIFTLOOP_HASH_KEY"):
        EventClient(bench.connection, privacy={"tail": "hash"})


def test_hashes_are_keyed_stable_and_cannot_be_linked_between_features() -> None:
    assert HASHER.hash("tail", "N1") == Hasher(b"a key of the deployment").hash("tail", "N1")
    assert HASHER.hash("tail", "N1") != Hasher(b"a key of another one").hash("tail", "N1")
    assert HASHER.hash("tail", "N1") != HASHER.hash("head", "N1")
    assert HASHER.hash("n", 1) == HASHER.hash("n", 1.0) == HASHER.hash("n", "1")
    assert HASHER.hash("tail", None) is None
    assert HASHER.hash("tail", None, "bool") is None
    assert "deployment" not in repr(HASHER) + repr(PrivacyRules(hasher=HASHER))
    with pytest.raises(SettingsError, match="at least 16"):
        Hasher(b"short")


def test_events_emitted_before_kafka_is_there_arrive_once_it_is(bench: ServingBench) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = int(reserved.getsockname()[1])
    late = Connection(f"127.0.0.1:{port}", bench.connection.prefix, {"log_level": "0"})
    client = EventClient(late, privacy={})
    ids = {client.prediction("m", 1, {"x": i}, 1.0) for i in range(50)}
    assert client.flush(0.1) == 50
    with forwarded(port, bench.connection.bootstrap_servers):
        assert client.flush(60) == 0
    client.close()
    assert sorted(event.prediction_id for event in bench.predictions()) == sorted(ids)
    assert client.stats.dropped == 0


def test_a_fatal_error_of_the_producer_loses_and_doubles_nothing(bench: ServingBench) -> None:
    with EventClient(bench.connection, privacy={}) as client:
        ids = {client.prediction("m", 1, {"x": i}, 1.0) for i in range(20)}
        client.flush()
        client.outbox._on_error(  # type: ignore[reportPrivateUsage]  # as librdkafka calls it
            KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost its place", True)
        )
        wait_until(lambda: client.stats.fatal_errors == 1)
        ids |= {client.prediction("m", 1, {"x": i}, 1.0) for i in range(20)}
        assert client.flush() == 0
    assert sorted(event.prediction_id for event in bench.predictions()) == sorted(ids)


def test_a_full_queue_overflows_and_then_drops_what_it_counts(nowhere: str) -> None:
    drops: list[Dropped] = []
    client = EventClient(
        Connection(nowhere, "nowhere.", {"log_level": "0"}),
        privacy={},
        queue_events=100,
        overflow=Overflow(max_events=50),
        on_drop=drops.append,
    )
    with Stopwatch() as watch:
        for i in range(200):
            client.prediction("m", 1, {"x": i}, 1.0, prediction_id=f"p{i}")
    assert watch.seconds < 1.0, "a full queue is no reason to wait"
    wait_until(lambda: client.stats.waiting == 150)  # librdkafka counts its own error reports for a moment
    assert (client.stats.emitted, client.stats.dropped) == (200, 50)
    wait_until(lambda: len(drops) == 50)
    assert {drop.key for drop in drops} == {f"p{i}" for i in range(150, 200)}
    assert "Kafka is slow or away" in drops[0].reason
    client.close(timeout_s=0.1)
    assert client.stats.dropped == 200
    assert len(client.outbox._producer) == 0, "what was counted as dropped is not sent after all"


def test_what_is_looked_at_in_the_overflow_keeps_its_room() -> None:
    overflow = Overflow(max_events=1)
    one, other = QueuedEvent("t", "a", b"1"), QueuedEvent("t", "b", b"2")
    assert overflow.offer(one)
    assert overflow.first() == one
    assert not overflow.offer(other)
    assert overflow.take() == one
    assert overflow.first() is None


def test_an_event_too_large_for_kafka_is_dropped_and_reported(bench: ServingBench) -> None:
    drops: list[Dropped] = []
    with EventClient(bench.connection, privacy={}, on_drop=drops.append) as client:
        client.prediction("m", 1, {"x": "y" * 5_000_000}, 1.0, prediction_id="big")
        client.prediction("m", 1, {"x": 1}, 1.0, prediction_id="small")
    assert [event.prediction_id for event in bench.predictions()] == ["small"]
    assert [drop.key for drop in drops] == ["big"]
    assert client.stats.dropped == 1


def test_a_listener_that_raises_stops_nothing(bench: ServingBench, caplog: pytest.LogCaptureFixture) -> None:
    def broken(dropped: Dropped) -> None:
        raise RuntimeError("no")

    with EventClient(bench.connection, privacy={}, on_drop=broken) as client:
        client.prediction("m", 1, {"x": "y" * 5_000_000}, 1.0)
        wait_until(lambda: "on_drop raised" in caplog.text)
        client.prediction("m", 1, {"x": 1}, 1.0, prediction_id="small")
    assert [event.prediction_id for event in bench.predictions()] == ["small"]


def test_a_closed_client_says_so(topics: Connection) -> None:
    client = EventClient(topics)
    client.close()
    client.close()
    with pytest.raises(ClientClosed, match="the client is closed"):
        client.prediction("m", 1, {}, 1.0)
    with pytest.raises(ClientClosed):
        client.label("p", 1.0)


def test_a_forked_process_has_to_create_its_own_client(topics: Connection) -> None:
    with EventClient(topics, privacy={}) as client:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # no pytest, no atexit in here
            try:
                client.prediction("m", 1, {}, 1.0)
                os.write(writing, b"emitted")
            except ClientClosed as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert b"the process forked" in os.read(reading, 1000)
        os.close(reading)
        os.close(writing)


def test_leaving_the_process_sends_what_is_under_way(bench: ServingBench) -> None:
    servers, prefix = bench.connection.bootstrap_servers, bench.connection.prefix
    code = (
        f"import driftloop\nclient = driftloop.Client({servers!r}, prefix={prefix!r})\n"
        "for i in range(100):\n    client.prediction('m', 1, {'x': i}, 1.0, prediction_id=f'p{i}')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(bench.predictions()) == 100


@pytest.mark.usefixtures("in_environment")
def test_the_environment_says_where_kafka_is(bench: ServingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_KAFKA__CLIENT_ID", "somebody")
    monkeypatch.setenv("DRIFTLOOP_HASH_KEY", "a key of the deployment")
    with api.Client(privacy={"tail": "hash"}) as client:
        client.prediction("m", 1, {"tail": "N1"}, 1.0)
    (event,) = bench.predictions()
    assert event.features["tail"] == HASHER.hash("tail", "N1")
    with pytest.raises(SettingsError, match="No such configuration property"):
        api.Client(kafka={"no.such.setting": "1"})


def test_no_address_is_an_error_with_the_ways_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="DRIFTLOOP_BOOTSTRAP_SERVERS"):
        api.Client()


def test_many_threads_emit_without_losing_any(bench: ServingBench) -> None:
    with EventClient(bench.connection) as client:

        def emit(name: str) -> None:
            for i in range(500):
                client.prediction("m", 1, {"x": i}, 1.0, prediction_id=f"{name}-{i}")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(emit, "abcd"))
        assert client.stats.emitted == 2000
        assert client.flush() == 0
    assert len({event.prediction_id for event in bench.predictions()}) == 2000 == len(bench.read(PREDICTIONS))


def test_ids_are_uuids_that_sort_by_time() -> None:
    began_ms = time.time_ns() // 1_000_000
    ids = [new_prediction_id(began_ms + number) for number in range(2000)]
    assert ids == sorted(ids)
    for number, known in enumerate(ids):
        parsed = uuid.UUID(known)
        assert known == parsed.hex
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == began_ms + number


def test_what_follows_an_ids_time_is_random_in_every_bit() -> None:
    ids = [int(new_prediction_id(1), 16) for _ in range(2000)]
    assert len(set(ids)) == 2000
    changing = functools.reduce(operator.or_, (known ^ ids[0] for known in ids))
    assert changing.bit_count() == 72


def test_the_overflow_is_bounded_by_number_and_bytes_and_keeps_order() -> None:
    overflow = Overflow(max_events=3, max_bytes=10)
    one, two, large = (QueuedEvent("t", str(i), b"x" * size) for i, size in ((1, 4), (2, 4), (3, 8)))
    assert overflow.offer(one)
    assert overflow.offer(two)
    assert not overflow.offer(large)
    assert overflow.take() == one
    overflow.give_back(one)
    assert [overflow.take(), overflow.take(), overflow.take()] == [one, two, None]
    assert all(overflow.offer(QueuedEvent("t", "k", b"")) for _ in range(3))
    assert not overflow.offer(QueuedEvent("t", "k", b""))
