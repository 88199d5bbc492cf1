"""What a role's producer logs is taken in while the role rests: else ever more of it waits in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.doubt import Doubt
from driftloop.streams.train.shell import TrainerShell

from tests.support.join.kafka import ThreadedJoiner
from tests.support.train.world import trainer_config
from tests.support.waiting import wait_until


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The levels of all lines that were taken in."""
    taken: list[int] = []
    log = Doubt.log

    def counted(self: Doubt, level: int, form: str, *values: object) -> None:
        taken.append(level)
        log(self, level, form, *values)

    monkeypatch.setattr(Doubt, "log", counted)
    return taken


def talkative(connection: Connection) -> Connection:
    """Its clients have something to log ten times a second."""
    settings = {"debug": "protocol", "topic.metadata.refresh.interval.ms": "100"}
    return Connection(connection.bootstrap_servers, connection.prefix, settings)


def test_a_joiner_without_input_takes_in_what_its_producer_logs(
    topics: Connection, tmp_path: Path, lines: list[int]
) -> None:
    running = ThreadedJoiner(talkative(topics), tmp_path)
    try:
        wait_until(lambda: running.stats.partitions, "partitions")
        before = len(lines)
        wait_until(lambda: len(lines) > before, "lines of a producer that writes nothing")
    finally:
        running.end()


def test_a_trainer_without_input_takes_in_what_its_producer_logs(
    topics: Connection, tmp_path: Path, lines: list[int]
) -> None:
    shell = TrainerShell(talkative(topics), trainer_config(tmp_path))
    shell.start()

    def turn() -> bool:
        shell.turn()
        return bool(shell._cores)

    wait_until(turn, "partitions")
    before = len(lines)
    wait_until(lambda: turn() and len(lines) > before, "lines of a producer that writes nothing")
    shell.close()
