"""Malformed events on real Kafka: each is a dead letter with its bytes, and the joiner goes on."""

from __future__ import annotations

import base64
from pathlib import Path

import orjson
from confluent_kafka import Producer
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.support.join.kafka import Feed, joiner_process, read_made
from tests.support.join.world import label, prediction
from tests.support.waiting import wait_until


def malformed() -> dict[str, bytes | None]:
    good = orjson.dumps(prediction("bad", "x"))
    return {
        "truncated": good[:-9],
        "not an object": b"[1]",
        "wrong type": orjson.dumps(prediction("bad", "x") | {"ts": "now"}),
        "NaN": good.replace(b'"hour":5', b'"hour":NaN'),
        "invalid UTF-8": good.replace(b"UA", b"U\xff"),
        "lone surrogate": good.replace(b'"bad"', b'"\\ud800"'),
        "missing id": orjson.dumps({k: v for k, v in prediction("bad").items() if k != "prediction_id"}),
        "unknown model": orjson.dumps(prediction("bad", model="nobody knows")),
        "unspecified model": orjson.dumps(prediction("bad", model="unspecified")),
        "2 MB": orjson.dumps(prediction("bad") | {"features": {"x": "y" * 2_000_000}}),
        "4 MB": b"z" * 4_100_000,
        "deep": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        "deep but legal": good[:-1] + b',"deep":' + b"[" * 230 + b"]" * 230 + b"}",
        "empty": b"",
        "nothing": None,
    }


def test_malformed_events_all_reach_dead_letters_and_the_next_good_event_is_processed(
    kafka: Connection, tmp_path: Path
) -> None:
    feed = Feed(kafka, seed=7)
    large = Producer(kafka.producer(message_max_bytes=4_194_304))
    corpus = malformed()
    for topic in (PREDICTIONS, LABELS):
        for value in corpus.values():
            large.produce(kafka.topic(topic), value, b"\xff key", partition=0)
    assert large.flush(60) == 0
    feed.event(PREDICTIONS, prediction("good", "x"))
    feed.event(LABELS, label("good", "x"))
    feed.flush()
    with joiner_process(kafka, tmp_path):
        wanted = 2 * len(corpus) - 2
        made = wait_until(
            lambda: made if len((made := read_made(kafka)).dead_letters) >= wanted and made.outcomes else None
        )
    assert [o.prediction_id for _, o in made.outcomes] == ["good"]
    refused = {(letter.topic, letter.offset) for letter in made.dead_letters}
    # As labels, events of unknown models and deep ones lack a label like all the others.
    assert refused == {(kafka.topic(t), i) for t in (PREDICTIONS, LABELS) for i in range(len(corpus))}
    for letter in made.dead_letters:
        assert base64.b64decode(letter.key_b64 or "") == b"\xff key"
        assert letter.reason
        value = list(corpus.values())[letter.offset]
        kept = None if letter.value_b64 is None else base64.b64decode(letter.value_b64)
        assert kept == value or ("cut" in letter.reason and kept and (value or b"").startswith(kept))
    assert made.totals()["dead"] == len(made.dead_letters)
