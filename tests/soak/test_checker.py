"""The soak's checker sees each kind of damage: logs written by hand, with one fault of each kind in them."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import (
    CATALOGUE,
    LABELS,
    MODEL_UPDATES,
    OUTCOMES,
    PREDICTIONS,
    TRAINING_RUNS,
    TRIGGERS,
    VITALS,
    Topic,
)
from driftloop.streams.kafka.connection import Connection

from tests.soak.aborts import ABORTED
from tests.soak.checks.books import check_books
from tests.soak.checks.decisions import check_monitor, check_runs
from tests.soak.checks.expect import Windows
from tests.soak.checks.findings import CLASSES, MUST_BE_ZERO, Findings
from tests.soak.checks.join import JoinCheck, Joined
from tests.soak.checks.offsets import check_offsets
from tests.soak.checks.vitals import check_vitals
from tests.soak.traffic.ledger import LedgerWriter

PARTITIONS = 2
NAMES = tuple(name for i in range(60) if partition_of(name := f"id-{i}", PARTITIONS) == 0)[:8]
VARIANT = {"model": "alpha", "version": 1, "role": "champion"}


class Logs:
    """Topics written by hand; everything of ``NAMES`` lies on partition 0."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer = Producer(connection.producer())

    def write(self, topic: Topic, *events: dict[str, Any], key: str | None = None) -> None:
        for event in events:
            name = self._connection.topic(topic)
            self._producer.produce(name, orjson.dumps(event), key or "", partition=0)
        assert self._producer.flush(30) == 0

    def pairs(self) -> list[dict[str, Any]]:
        """A prediction and a label for each name; gives their outcomes as they must be."""
        self.write(PREDICTIONS, *(prediction(name) for name in NAMES))
        self.write(LABELS, *({"prediction_id": name, "ts": 2, "label": "late"} for name in NAMES))
        return [outcome(name, seq) for seq, name in enumerate(NAMES)]


def prediction(name: str) -> dict[str, Any]:
    return {"prediction_id": name, **VARIANT, "ts": 1, "features": {"x": 1}, "prediction": "late"}


def outcome(name: str, seq: int) -> dict[str, Any]:
    said = {"label": "late", "error_value": 0, "source": "system", "revision": 0, "seq": seq}
    return {**VARIANT, "prediction_id": name, "features": {"x": 1}, "prediction": "late", **said}


def vitals(errors: list[int], first_seq: int = 0) -> dict[str, Any]:
    """One message that covers everything that ``pairs`` wrote."""
    packed = base64.b64encode(np.packbits(np.array(errors, dtype=np.bool_)).tobytes()).decode()
    entry = {
        **VARIANT,
        "counts": {"predictions": len(NAMES), "outcomes": len(errors)},
        "first_seq": first_seq,
        "errors": {"kind": "bits", "count": len(errors), "data": packed},
    }
    span = {"start": 0, "end": len(NAMES)}
    return {
        "vitals": 1, "partition": 0, "predictions": span, "labels": span, "append_min_ms": 0,
        "append_max_ms": 1, "counts": {}, "models": [entry],
    }  # fmt: skip


def findings_of(connection: Connection, folder: Path) -> Findings:
    """Everything that the checks of the join and of vitals find."""
    partitions = {topic.name: PARTITIONS for topic in CATALOGUE}
    (folder / "run.json").write_text(json.dumps({"partitions": partitions}))
    (folder / "load.json").write_text(json.dumps({"predictions": len(NAMES)}))
    (folder / "acknowledged.bin").touch()
    findings = Findings()
    hour = 3_600_000
    joined = JoinCheck(connection, folder, PARTITIONS, Windows(hour, hour, hour), findings).run()
    check_vitals(connection, PARTITIONS, joined, findings)
    return findings


def test_whole_logs_are_found_whole(topics: Connection, tmp_path: Path) -> None:
    logs = Logs(topics)
    logs.write(OUTCOMES, *logs.pairs())
    logs.write(VITALS, vitals([0] * len(NAMES)))
    ledger = LedgerWriter(tmp_path / "acknowledged.bin")
    ledger.write(False, 0, 3, orjson.dumps(prediction(NAMES[3])))
    ledger.close()
    findings = findings_of(topics, tmp_path)
    assert findings.clean, findings.examples


def test_each_damage_is_found_and_named(topics: Connection, tmp_path: Path) -> None:
    logs = Logs(topics)
    due = logs.pairs()
    lost, twice, wrong, revised, *fine = due
    logs.write(OUTCOMES, twice, twice, {**wrong, "error_value": 1}, revised, *fine)
    logs.write(OUTCOMES, {**revised, "revision": 1})  # no label asks for it
    logs.write(PREDICTIONS, prediction(NAMES[0]) | {"latency_ms": 7})  # refused, and nobody says so
    misrouted = next(f"id-{i}" for i in range(60) if partition_of(f"id-{i}", PARTITIONS) == 1)
    logs.write(PREDICTIONS, prediction(misrouted))
    logs.write(VITALS, vitals([0] * (len(NAMES) - 1)))
    ledger = LedgerWriter(tmp_path / "acknowledged.bin")
    ledger.write(False, 0, 3, orjson.dumps(prediction(NAMES[3])))
    ledger.write(False, 0, 3, b"other bytes")
    ledger.write(True, 1, 0, b"never seen")
    ledger.close()

    findings = findings_of(topics, tmp_path)

    found = {kind: count for kind, count in findings.as_dict().items() if count}
    assert found.pop("vitals_mismatch") >= 1  # its counts
    assert found.pop("torn_transactions") >= 1  # outcomes without their vitals
    assert found == {
        "unacknowledged_loss": 2, "lost": 1, "duplicated": 1, "wrong": 3, "misrouted_lost": 1,
        "dead_letters_missing": 1,
    }, findings.examples  # fmt: skip
    assert str(lost["prediction_id"]) in findings.examples["lost"][0]


def test_what_was_aborted_and_is_read_is_found(topics: Connection, tmp_path: Path) -> None:
    logs = Logs(topics)
    logs.write(OUTCOMES, *logs.pairs())
    logs.write(VITALS, vitals([0] * len(NAMES)))
    producer = Producer(topics.producer())
    for topic in (PREDICTIONS, LABELS, OUTCOMES, VITALS):
        producer.produce(topics.topic(topic), ABORTED + b"...", partition=0)
    assert producer.flush(30) == 0

    findings = findings_of(topics, tmp_path)

    assert {kind: count for kind, count in findings.as_dict().items() if count} == {"aborted_reads": 4}
    assert {name for name, count in findings.by_class().items() if count} == {"aborted read"}


def test_committed_offsets_that_go_back_or_beyond_the_log_are_found(topics: Connection) -> None:
    logs = Logs(topics)
    logs.pairs()
    consumer = Consumer(topics.consumer("join"))
    place = topics.topic(PREDICTIONS)
    for offset in (3, 5, 4, 99):
        consumer.commit(offsets=[TopicPartition(place, 0, offset)], asynchronous=False)
    consumer.close()
    findings = Findings()

    assert check_offsets(topics, "join", (PREDICTIONS, LABELS), findings) == 4

    assert findings.counts == {"offsets_back": 1, "offsets_inconsistent": 1}, findings.examples
    assert "4 after 5" in findings.examples["offsets_back"][0]


def test_every_class_is_made_of_counts_that_must_be_zero() -> None:
    kinds = [kind for kinds in CLASSES.values() for kind in kinds]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) <= set(MUST_BE_ZERO)


def test_decisions_that_no_replay_gives_and_forked_histories_are_found(topics: Connection) -> None:
    logs = Logs(topics)
    logs.write(VITALS, vitals([0] * len(NAMES)))  # and no snapshot says that it was applied
    logs.write(TRIGGERS, {"trigger_id": "t-1", "model": "alpha"}, key="alpha")
    run = {"run_id": "r-1", "trigger_id": "t-1", "stage": 0, "model": "alpha"}
    logs.write(TRAINING_RUNS, run | {"status": "waiting"}, run | {"status": "superseded"})
    logs.write(TRAINING_RUNS, run | {"status": "promoted", "version": 2})
    logs.write(TRAINING_RUNS, run | {"run_id": "r-2", "status": "waiting"})
    update = {"model": "alpha", "generation": 1, "version": 1}
    logs.write(MODEL_UPDATES, update, update | {"version": 2}, update | {"generation": 3})
    findings = Findings()

    check_monitor(topics, PARTITIONS, findings)
    check_runs(topics, findings)

    found = {kind: count for kind, count in findings.as_dict().items() if count}
    assert found.pop("detector_mismatch") >= 2, findings.examples
    assert found == {"forked_runs": 2, "version_gaps": 3}, findings.examples


def committed_books(connection: Connection, predictions: list[int], labels: list[int]) -> Findings:
    """What the check of books finds if these numbers were committed for partition 0, after ``pairs``."""
    metadata = json.dumps([*range(8), *predictions, *labels])
    places = [
        TopicPartition(connection.topic(topic), 0, 8, metadata=metadata) for topic in (PREDICTIONS, LABELS)
    ]
    admin = AdminClient(connection.client())
    (altered,) = admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(connection.group("join"), places)]
    ).values()
    altered.result(30)
    joined, findings = Joined(), Findings()
    said = {"read": 8, "outcomes": 6, "unmet": 1, "repeated": 1}
    joined.books[0].counts.update({("predictions", name): count for name, count in said.items()})
    joined.books[0].counts.update({("labels", name): count for name, count in said.items()})
    check_books(connection, joined, findings)
    return findings


def test_books_that_do_not_balance_or_say_something_else_are_found(topics: Connection) -> None:
    good = [8, 6, 1, 0, 0, 1, 0]
    assert committed_books(topics, good, [8, 6, 0, 1, 0, 1, 0]).clean
    for bad, wanted in (
        ([8, 6, 0, 0, 0, 1, 0], {"books_unbalanced": 1, "books_mismatch": 1}),
        ([8, 6, 1, 0, 1, 0, 0], {"books_mismatch": 2}),
        ([], {"books_mismatch": 1}),
    ):
        found = committed_books(topics, good, bad)
        assert {kind: count for kind, count in found.as_dict().items() if count} == wanted, found.examples


def test_the_ledger_forgets_only_an_entry_cut_off(tmp_path: Path) -> None:
    from tests.soak.traffic.ledger import read_ledger

    file = tmp_path / "acknowledged.bin"
    ledger = LedgerWriter(file)
    ledger.write(False, 3, 5, b"one")
    ledger.write(True, 1, 1 << 40, b"two")
    ledger.close()
    file.write_bytes(file.read_bytes()[:-1])
    assert [tuple(entry) for entry in read_ledger(file)] == [(False, 3, 5, zlib.crc32(b"one"))]
