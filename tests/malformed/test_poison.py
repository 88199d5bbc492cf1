"""Malformed records by the ten thousand through the real joiner: none stops it, none is lost or altered."""

from __future__ import annotations

from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from benchmarks.join import joiner
from benchmarks.poison import examine, only_poison, send
from benchmarks.support.cluster import deployment
from tests.support.join.kafka import read_made
from tests.support.join.world import keyed, label, prediction
from tests.support.malformed.poison import MAKERS, Record, poison


def test_every_malformed_record_is_a_dead_letter_with_its_bytes_and_place(topics: Connection) -> None:
    apply_deployment(topics, deployment())
    found, _ = only_poison(topics, 20_000)
    assert found.sent == 20_000
    assert found.dead_letters == 20_000
    assert found.faults == 0, found


def test_the_examination_sees_what_is_missing(topics: Connection) -> None:
    send(topics, poison(len(MAKERS), seed=1))
    assert examine(topics).lost == len(MAKERS)


def test_good_records_between_malformed_ones_are_joined(topics: Connection) -> None:
    apply_deployment(topics, deployment())
    bad = poison(400, seed=2)
    records: list[Record] = []
    for i in range(100):
        answer = (PREDICTIONS, *keyed(prediction(f"id-{i}", model="late")))
        truth = (LABELS, *keyed(label(f"id-{i}", "late")))
        records += [next(bad), answer, next(bad), next(bad), truth, next(bad)]
    send(topics, iter(records))
    with joiner(topics) as running:
        running.wait_for(len(records))
    made = read_made(topics)
    assert {outcome.prediction_id for _, outcome in made.outcomes} == {f"id-{i}" for i in range(100)}
    assert len(made.dead_letters) == 400
