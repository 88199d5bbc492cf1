"""How restoring, data loss and misrouted records show: in ``status``, and where Prometheus asks."""

from __future__ import annotations

import io
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from wsgiref.simple_server import WSGIServer

import pytest
from confluent_kafka import Consumer
from driftloop.infra.cli.status import render
from driftloop.infra.cluster.members import read_members
from driftloop.infra.metrics import catalogue
from driftloop.infra.metrics.catalogue import JOIN_METERS, Metrics
from driftloop.infra.metrics.joiner import join_readings
from driftloop.infra.status.join_status import read_join_progress
from driftloop.infra.status.overview import Overview
from driftloop.schemas.joining import JoinProgress
from driftloop.schemas.topics import JOIN_PROGRESS, TRIGGERS
from driftloop.streams.join.recovery.progress import ProgressReporter
from driftloop.streams.join.state.books import Account, Books
from driftloop.streams.join.stats import CheckpointStats, DataLoss, JoinStats, RestoreStats
from driftloop.streams.kafka.connection import Connection
from prometheus_client import start_http_server
from rich.console import Console

from tests.support.kafka.topics import write


def shown(
    joins: dict[int, JoinProgress],
    overview: Overview | None = None,
    books: dict[int, Books] | None = None,
    now_ms: int = 50_000,
    joiners: int = 1,
) -> str:
    console = Console(file=io.StringIO(), width=160)
    running = {"join": joiners, "monitor": 1, "trainer": 1}
    console.print(render(overview or Overview("p."), [], joins, books or {}, running, now_ms=now_ms))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def progress(**changed: object) -> JoinProgress:
    fields = {
        "partition": 3, "instance": "join-0", "phase": "restoring", "ts": 49_000, "source": "checkpoint",
        "done": 250, "total": 1_000, "records": 240, "records_per_s": 12_345.6, "took_ms": 2_000,
    }  # fmt: skip
    return JoinProgress.model_validate(fields | changed)


def test_status_shows_how_far_restoring_is_and_when_it_fell_silent() -> None:
    text = shown({3: progress()})
    assert "restoring from checkpoint: 25%, 250 of 1,000 offsets, 12,346 records/s" in text
    assert "silent for 41 s" in shown({3: progress()}, now_ms=90_000)
    text = shown({3: progress(phase="joining", source="log")})
    assert "joining; restored from log in 2.0 s: 240 records" in text


def test_status_does_not_call_a_partition_joined_that_nobody_joins() -> None:
    text = shown({3: progress(phase="joining", records=0)}, joiners=0)
    assert "no joiner runs; last: joining" in text


def test_a_role_counts_as_running_while_it_reads(topics: Connection) -> None:
    assert read_members(topics) == {"join": 0, "monitor": 0, "trainer": 0}
    with closing(Consumer(topics.consumer("trainer"))) as consumer:
        consumer.subscribe([topics.topic(TRIGGERS)])
        while not consumer.assignment():
            consumer.poll(0.1)
        assert read_members(topics) == {"join": 0, "monitor": 0, "trainer": 1}
    assert read_members(topics)["trainer"] == 0


def test_status_shows_data_loss_and_misrouted_records() -> None:
    lost = JoinProgress(partition=0, instance="join-0", phase="data_loss", ts=1, topic="labels", missing=77)
    text = shown({0: lost}, Overview("p.", misrouted=5))
    assert "77 labels were removed by retention before they were read" in text
    assert "misrouted: 5 recently" in text


def test_status_shows_the_books_and_the_partition_where_they_do_not_balance() -> None:
    good = Books(Account(read=5, outcomes=3, pending=2), Account(read=3, outcomes=3))
    text = shown({}, books={0: good, 1: good})
    assert "predictions: 10 read = 6 outcomes + 4 pending + 0 expired + 0 refused" in text
    assert "labels: 6 read = 6 outcomes" in text
    assert "balance" not in text
    bad = Books(Account(read=1_005, outcomes=3, pending=2), Account(read=3, outcomes=3))
    text = " ".join(shown({}, books={0: good, 7: bad}).split())
    assert "the books of partition 7 do not balance: predictions: 1,005 read, but 3 outcomes" in text
    assert "1,000 in no class" in text


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    """Metrics whose server, which lives as long as a role's process, ends with the test."""
    with ExitStack() as stack:

        def start(*arguments: Any) -> tuple[WSGIServer, threading.Thread]:
            server, thread = start_http_server(*arguments)
            for end in (thread.join, server.server_close, server.shutdown):
                stack.callback(end)
            return server, thread

        monkeypatch.setattr(catalogue, "start_http_server", start)
        yield Metrics()


def test_scrapes_see_a_restore_while_it_runs(metrics: Metrics) -> None:
    stats = JoinStats(misrouted=4)
    stats.restores[1] = RestoreStats(0.0, "checkpoint", done=10, total=25, records=9, fetched=5_000)
    stats.checkpoints[1] = CheckpointStats(0, 25, 6_000, 100, 0.004, 0.2)
    stats.data_loss.append(DataLoss("labels", 1, 12))
    stats.books[1] = Books(Account(read=9, outcomes=5, pending=3), Account(read=5, outcomes=5))
    metrics.read_with(lambda: join_readings(stats))
    port = metrics.serve("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'driftloop_join_restoring{partition="1",source="checkpoint"} 1.0' in text
    assert 'driftloop_join_restored_offsets{partition="1",source="checkpoint"} 10.0' in text
    assert 'driftloop_join_to_restore_offsets{partition="1",source="checkpoint"} 15.0' in text
    assert 'driftloop_join_data_loss_records{partition="1",topic="labels"} 12.0' in text
    assert "driftloop_join_misrouted_total 4.0" in text
    books = 'driftloop_join_books_records{class="%s",partition="1",topic="predictions"} %s'
    for name, count in (("read", 9.0), ("outcomes", 5.0), ("pending", 3.0), ("misrouted", 0.0)):
        assert books % (name, count) in text
    assert 'driftloop_join_books_difference{partition="1",topic="predictions"} 1.0' in text
    assert 'driftloop_join_books_difference{partition="1",topic="labels"} 0.0' in text
    assert {meter.name for meter in JOIN_METERS} == {
        line.split()[2] for line in text.splitlines() if line.startswith("# HELP driftloop_")
    }


def test_what_a_joiner_reports_is_what_status_reads(topics: Connection) -> None:
    reports = ProgressReporter(topics, "join-7")
    stats = RestoreStats(0.0, "log", done=1, total=4, records=1)
    reports.restoring(1, stats, now=2.0)
    reports.restoring(1, stats, now=2.5)  # within a second: not reported again
    reports.joining(0, None, now=3.0)
    reports.data_loss(2, "labels", 9)
    reports.close()
    write(topics, (JOIN_PROGRESS, b"9", b"{]"))
    read = read_join_progress(topics)
    assert {number: (one.phase, one.instance) for number, one in read.items()} == {
        0: ("joining", "join-7"),
        1: ("restoring", "join-7"),
        2: ("data_loss", "join-7"),
    }
    assert (read[1].records_per_s, read[2].missing) == (0.5, 9)
