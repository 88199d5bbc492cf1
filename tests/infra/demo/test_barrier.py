"""The demo's barrier: it goes on calling ``idle``, which is what restarts a role that died."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from driftloop.infra.demo.barrier import Barrier, LoopStuck
from driftloop.infra.demo.loop_view import LoopView
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection


def test_offsets_held_by_a_dead_joiners_transaction_do_not_keep_it_from_being_restarted(
    topics: Connection,
) -> None:
    def joiner() -> Producer:
        writer = Producer(topics.producer() | {"transactional.id": f"{topics.prefix}dead"})
        writer.init_transactions(30)
        return writer

    died = joiner()
    died.begin_transaction()
    places = [TopicPartition(topics.topic(topic), 0, 0) for topic in (PREDICTIONS, LABELS)]
    with closing(Consumer(topics.consumer("join"))) as group:
        died.send_offsets_to_transaction(places, group.consumer_group_metadata(), 30)
    restarted: list[Producer] = []

    def idle() -> None:
        if not restarted:
            restarted.append(joiner())  # which ends what the dead one left open

    with closing(Barrier(topics, LoopView(topics.prefix), servers=0, idle=idle, deadline_s=60)) as barrier:
        barrier.wait(predictions=0, labels=0)
    assert restarted


def test_what_never_comes_is_named(topics: Connection) -> None:
    with (
        closing(
            Barrier(topics, LoopView(topics.prefix), servers=0, idle=lambda: None, deadline_s=0.1)
        ) as barrier,
        pytest.raises(LoopStuck, match="the topics"),
    ):
        barrier.wait(predictions=1, labels=0)
