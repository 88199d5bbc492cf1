"""A trainer whose consumer loses its place in the log: it finds it again, unless retention was faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from driftloop.infra.settings import Settings
from driftloop.schemas.decisions import Command
from driftloop.schemas.errors import BrokerError, StateError
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import COMMANDS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.train.shell import TrainerShell

from tests.support.train.world import World, trainer_config


@pytest.fixture
def world(settings: Settings, topics: Connection) -> World:
    return World(settings, topics)


@pytest.fixture
def shell(world: World) -> Iterator[TrainerShell]:
    shell = TrainerShell(world.connection, trainer_config(world.settings.state_dir))
    shell.start()
    yield shell
    shell.close()


def turn_until(shell: TrainerShell, met: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not met():
        assert time.monotonic() < end, "not within a minute"
        shell.turn()


def answered(shell: TrainerShell, world: World, command: Command) -> None:
    turn_until(shell, lambda: command.command_id in world.results())


def lose_place(shell: TrainerShell, at: dict[tuple[str, int], int] | None = None) -> None:
    """Without an offset librdkafka asks for the group's, and there may be none."""
    inputs = shell._inputs
    inputs._consumer.assign([TopicPartition(*place, *([at[place]] if at else ())) for place in inputs._next])


def test_a_lost_place_is_found_again_before_the_first_commit(world: World, shell: TrainerShell) -> None:
    turn_until(shell, lambda: shell._cores)
    lose_place(shell)
    answered(shell, world, world.command("retire", model="typo"))


def test_nothing_is_done_twice_where_a_place_was_lost(world: World, shell: TrainerShell) -> None:
    first = world.command("retire", model="typo")
    answered(shell, world, first)
    lose_place(shell, {place: 1_000_000 for place in shell._inputs._next})
    answered(shell, world, world.command("retire", model="typo"))
    assert len(world.results()) == 2


def test_what_retention_removed_unread_ends_the_trainer(world: World, shell: TrainerShell) -> None:
    admin = AdminClient(world.connection.client())
    turn_until(shell, lambda: shell._cores)
    partition = partition_of("typo", world.settings.model_partitions)
    place = TopicPartition(world.connection.topic(COMMANDS), partition, 1)
    lose_place(shell)
    world.command("retire", model="typo")
    admin.delete_records([place])[place].result(10)
    with pytest.raises(StateError, match=r"commands\[\d\] holds offsets 1 to 1, but .* reads on from 0"):
        turn_until(shell, lambda: False)


def test_a_trainer_that_its_group_has_expelled_ends(world: World, shell: TrainerShell) -> None:
    """Without a rival too it is expelled, after an outage of the coordinator (librdkafka's issue 3437)."""
    rival = Consumer(world.connection.consumer("trainer", group_instance_id="train-0"))
    turn_until(shell, lambda: shell._cores)
    rival.subscribe(list(shell._inputs.topics))
    with pytest.raises(BrokerError, match="Kafka cannot be read"):
        turn_until(shell, lambda: rival.poll(0.01) and False)
    rival.close()
