"""Dead letters on real Kafka: listed, shown, sent again exactly once whoever is killed when, dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from driftloop.infra.control.specs import apply_deployment
from driftloop.infra.dead_letters.model import DeadLetterError, DeadLetterFilter, hexdump, printable
from driftloop.infra.dead_letters.replay import REPLAY_HEADER, DeadLetterLog, resolve
from driftloop.infra.settings import Settings
from driftloop.schemas.dead_letters import MAX_VALUE_BYTES, dead_letter
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import DEAD_LETTERS, LABELS, MODEL_UPDATES, PREDICTIONS, TRIGGERS, Topic
from driftloop.streams.kafka.connection import Connection

from tests.support.cli import driftloop
from tests.support.join.kafka import ROOT, ThreadedJoiner, read_made
from tests.support.join.world import keyed, label, prediction
from tests.support.kafka.topics import write
from tests.support.waiting import wait_until

BINARY = b'\xff\x00{"model": \x1b[31m'


@pytest.fixture
def kafka(topics: Connection) -> Connection:
    apply_deployment(topics, Deployment(models={"m": ModelSpec()}))
    return topics


@pytest.fixture
def joining(kafka: Connection, tmp_path: Path) -> Iterator[None]:
    running = ThreadedJoiner(kafka, tmp_path / "join")
    yield
    running.end()
    assert running.error is None


def letters_of(connection: Connection, count: int) -> list[DeadLetter]:
    def enough() -> list[DeadLetter]:
        found = read_made(connection).dead_letters
        return found if len(found) >= count else []

    return wait_until(enough, f"{count} dead letters")


def write_letters(connection: Connection, count: int, topic: Topic = TRIGGERS, **fields: object) -> None:
    """Dead letters as a stage would write them, of records that need not exist."""
    made = (
        dead_letter(
            "train", connection.topic(topic), i % 2, i, f"Trigger: trigger_id: missing (got {i})",
            append_ms=1_000, key=b"m", value=b'{"model":"m","n":%d}' % i,
        )
        for i in range(count)
    )  # fmt: skip
    write(connection, *((DEAD_LETTERS, b"m", letter.model_copy(update=fields).encode()) for letter in made))


def sent_again(connection: Connection, topic: Topic) -> list[Message]:
    """Committed records of the topic that carry the resolution of a replay."""
    found: list[Message] = []
    with closing(Consumer(connection.consumer("test-sent-again"))) as consumer:
        consumer.assign([TopicPartition(connection.topic(topic), partition, 0) for partition in range(2)])
        ended, deadline = 0, time.monotonic() + 120
        while ended < 2:
            assert time.monotonic() < deadline
            for message in consumer.consume(500, timeout=0.2):
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF
                    ended += 1
                elif REPLAY_HEADER in dict(message.headers() or []):
                    found.append(message)
    return found


def mark_of(message: Message) -> str:
    return dict(message.headers() or [])[REPLAY_HEADER].decode()


def test_what_the_joiner_refused_is_counted_shown_and_after_the_fix_sent_again_once(
    kafka: Connection, settings: Settings, joining: None
) -> None:
    late = prediction("id-1", "late", model="new")
    write(
        kafka, (PREDICTIONS, *keyed(late)), (PREDICTIONS, None, BINARY), (LABELS, b"k", None),
        (LABELS, *keyed(label("id-1", "late"))), headers=[("trace", b"t-1"), ("empty", None)],
    )  # fmt: skip
    refused = {letter.reason.split(":")[0]: letter for letter in letters_of(kafka, 3)}
    unknown = refused["unknown model 'new'"]

    listed = driftloop("dlq", "ls", "--json", settings=settings)
    groups = [orjson.loads(line) for line in listed.stdout.splitlines()]
    assert {(group["stage"], group["topic"], group["model"], group["count"]) for group in groups} == {
        ("join", "predictions", "new", 1),
        ("join", "predictions", None, 1),
        ("join", "labels", None, 1),
    }
    shown = driftloop("dlq", "show", refused["not JSON"].id, "--hex", settings=settings)
    assert hexdump(BINARY) in shown.stdout
    assert "predictions" in shown.stdout
    assert "not JSON" in shown.stdout
    assert "trace: t-1" in shown.stdout
    assert "\x1b" not in driftloop("dlq", "show", refused["not JSON"].id, settings=settings).stdout

    apply_deployment(kafka, Deployment(models={"m": ModelSpec(), "new": ModelSpec()}))
    tried = driftloop("dlq", "replay", "--model", "new", "--dry-run", settings=settings)
    assert "1 would be replayed (1 predictions)" in tried.stdout
    assert sent_again(kafka, PREDICTIONS) == []
    for said in ("1 replayed (1 predictions)", "0 replayed"):
        done = driftloop("dlq", "replay", "--model", "new", "--why", "applied", settings=settings)
        assert said in done.stdout, done.output
    (outcome,) = [one for _, one in wait_until(lambda: read_made(kafka).outcomes)]
    assert (outcome.prediction_id, outcome.model, outcome.label) == ("id-1", "new", "late")
    (again,) = sent_again(kafka, PREDICTIONS)
    assert (again.key(), again.value()) == keyed(late)
    assert again.headers() == [("trace", b"t-1"), ("empty", None), (REPLAY_HEADER, unknown.id.encode())]
    assert "open" in driftloop("dlq", "ls", "--each", settings=settings).stdout
    all_of_them = driftloop("dlq", "ls", "--each", "--resolved", "--json", settings=settings)
    states = Counter(orjson.loads(line)["state"] for line in all_of_them.stdout.splitlines())
    assert states == {"open": 2, "replayed": 1}


def test_a_replay_killed_at_any_step_sends_each_dead_letter_once_when_run_again(kafka: Connection) -> None:
    write_letters(kafka, 1_200)  # three chunks
    program = (
        "import os, signal, sys\n"
        "from driftloop.infra.dead_letters.model import DeadLetterFilter\n"
        "from driftloop.infra.dead_letters.replay import resolve\n"
        "from driftloop.streams.kafka.connection import Connection\n"
        "def die(step):\n"
        "    if step == sys.argv[3]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "kafka = Connection(sys.argv[1], sys.argv[2])\n"
        "resolve(kafka, 'replayed', DeadLetterFilter(), by='test', observe=die)\n"
    )
    for step in ("produced", "committed", "produced"):
        killed = subprocess.run(
            [sys.executable, "-c", program, kafka.bootstrap_servers, kafka.prefix, step],
            cwd=ROOT, env=dict(os.environ), timeout=60, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
    last = resolve(kafka, "replayed", DeadLetterFilter(), by="test")
    assert (last.done, last.already) == (700, 500)  # one chunk had been committed
    found = Counter(mark_of(message) for message in sent_again(kafka, TRIGGERS))
    assert len(found) == 1_200
    assert set(found.values()) == {1}
    assert resolve(kafka, "replayed", DeadLetterFilter(), by="test").done == 0


def test_of_two_replays_at_once_the_older_stops_and_nothing_is_sent_twice(kafka: Connection) -> None:
    write_letters(kafka, 600)

    def overtake(step: str) -> None:
        if step == "produced":
            assert resolve(kafka, "replayed", DeadLetterFilter(), by="newer").done == 600

    with pytest.raises(BrokerError, match="another"):
        resolve(kafka, "replayed", DeadLetterFilter(), by="older", observe=overtake)
    assert Counter(mark_of(message) for message in sent_again(kafka, TRIGGERS)).most_common(1)[0][1] == 1
    assert len(sent_again(kafka, TRIGGERS)) == 600


def test_dropped_dead_letters_are_listed_and_replayed_on_request_only(
    kafka: Connection, settings: Settings
) -> None:
    write_letters(kafka, 5)
    unclear = driftloop("dlq", "drop", settings=settings)
    assert unclear.exit_code == 1
    assert "--all" in unclear.output
    wrong = driftloop("dlq", "drop", "dead-none", settings=settings)
    assert wrong.exit_code == 1
    assert "no dead letter's id begins with 'dead-none'" in wrong.output
    with DeadLetterLog(kafka) as log:
        first = [letter.id for letter in log.dead_letters()][:2]
    assert resolve(kafka, "dropped", DeadLetterFilter(ids=tuple(first)), by="test", why="of no use").done == 2
    assert "3" in driftloop("dlq", "ls", settings=settings).stdout
    assert resolve(kafka, "replayed", DeadLetterFilter(), by="test").done == 3
    assert {mark_of(message) for message in sent_again(kafka, TRIGGERS)}.isdisjoint(first)
    assert resolve(kafka, "replayed", DeadLetterFilter(ids=tuple(first)), by="test", again=True).done == 2
    with DeadLetterLog(kafka) as log:
        resolutions = log.resolutions()
    assert {resolution.action for resolution in resolutions.values()} == {"replayed"}


def test_filters_choose_by_stage_topic_model_reason_and_time(kafka: Connection) -> None:
    write_letters(kafka, 3)
    write_letters(kafka, 2, LABELS, stage="join", reason="expired: nobody came")
    now_ms = time.time_ns() // 1_000_000

    def chosen(**wanted: Any) -> int:
        return resolve(kafka, "replayed", DeadLetterFilter(**wanted), by="test", dry_run=True).done

    assert chosen() == chosen(model="m") == chosen(since_ms=now_ms - 60_000) == 5
    assert chosen(stage="join") == chosen(topic="labels") == chosen(reason="EXPIRED") == 2
    assert chosen(model="other") == chosen(until_ms=now_ms - 60_000) == 0


def test_bytes_too_many_for_a_dead_letter_come_from_the_log_itself(kafka: Connection, joining: None) -> None:
    large = b"x" * (MAX_VALUE_BYTES + 100)
    write(
        kafka, (PREDICTIONS, b"k", large), headers=[("trace", b"t-2")], message_max_bytes=4_000_000,
        compression_type="none",
    )  # fmt: skip
    (letter,) = letters_of(kafka, 1)
    assert letter.cut
    assert "value cut" in letter.reason
    assert resolve(kafka, "replayed", DeadLetterFilter(), by="test").done == 1
    (again,) = sent_again(kafka, PREDICTIONS)
    assert again.value() == large
    assert again.headers() == [("trace", b"t-2"), (REPLAY_HEADER, letter.id.encode())]


def test_what_cannot_be_sent_again_is_named_and_left_open(kafka: Connection) -> None:
    write_letters(kafka, 1, MODEL_UPDATES)
    write_letters(kafka, 1, PREDICTIONS, cut=True, value_b64=None)
    result = resolve(kafka, "replayed", DeadLetterFilter(), by="test")
    assert result.done == 0
    assert {reason.rpartition(": ")[2] for reason in result.not_possible} == {
        "they can only be dropped",
        "its bytes were too many for a dead letter, and the log no longer has them",
    }
    assert resolve(kafka, "dropped", DeadLetterFilter(), by="test").done == 2


def test_invalid_records_on_dead_letters_and_its_resolutions_are_skipped(kafka: Connection) -> None:
    producer = Producer(kafka.producer())
    for value in (b"", None, b"\xff", b"[]", b'{"id":1}'):
        producer.produce(kafka.topic(DEAD_LETTERS), value, b"k")
        producer.produce(f"{kafka.prefix}dead-letter-resolutions", value, b"k")
    assert producer.flush(60) == 0
    write_letters(kafka, 1, value_b64="no base64!", key_b64="\u00e9", append_ms=2**60)
    with DeadLetterLog(kafka) as log:
        (letter,) = log.dead_letters()
        assert log.unreadable == 5
        assert log.resolutions() == {}
        assert letter.value == b"no base64!"
        with pytest.raises(DeadLetterError, match="begins with"):
            log.one("dead-nothing")


def test_bytes_are_shown_without_anything_that_a_terminal_would_obey() -> None:
    assert printable(b"ok\x1b[31m\xff\xc3\xa9") == "ok\\x1b[31m\\xff\u00e9"
    assert hexdump(b"driftloop \x00\xff 1234567") == (
        "00000000  64 72 69 66 74 6c 6f 6f 70 20 00 ff 20 31 32 33  driftloop .. 123\n"
        "00000010  34 35 36 37                                      4567"
    )
