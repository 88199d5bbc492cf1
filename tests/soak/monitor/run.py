"""Kill the monitor repeatedly, in transactions too, then compare it with an offline replay of vitals.

    python -m tests.soak.monitor --kills 100 --seed 1

A producer writes transactional vitals for ten models into two partitions, a fifth of transactions aborted,
the first of the log among them. Worker processes are killed -9 at seeded random moments, at start-up too;
with --zombies N, N times a worker is frozen past its session, another takes over, and the first is thawed.
At the end the monitor's last snapshot must equal the replay's state, and its events, repeats dropped by id,
the replay's events, byte for byte. Exit status 0 means that they do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from confluent_kafka import Producer
from driftloop.infra.cluster.topics import apply_topics
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import VITALS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.core import Emitted
from driftloop.streams.monitor.faust.app import run_monitor
from driftloop.streams.monitor.partition import Core
from driftloop.streams.monitor.shell import MonitorSettings
from driftloop.streams.monitor.snapshots import find_resume_point

from tests.soak.monitor.subjects import MODELS, SUBJECTS, Subject
from tests.support.kafka.topics import read_topic
from tests.support.monitor.emitted import Place, emitted_events, place_of
from tests.support.monitor.progress import MonitorProgress
from tests.support.waiting import wait_until

PARTITIONS = 2
# Snapshots far more often than in production, so that kills meet every step.
SETTINGS = MonitorSettings(snapshot_records=20, snapshot_min_s=0.2, snapshot_max_s=1.0, session_s=6.0)


@dataclass(slots=True)
class Report:
    """What happened, and whether the results are exact."""

    kills: int = 0
    zombies: int = 0
    records: int = 0
    aborted_transactions: int = 0
    committed_transactions: int = 0
    events: dict[str, int] = field(default_factory=dict[str, int])
    re_emitted: int = 0
    forked_events: int = 0
    behind: int = 0
    diverged: list[str] = field(default_factory=list[str])
    events_differ: list[str] = field(default_factory=list[str])
    restored_from_snapshot: int = 0
    restart_s: list[float] = field(default_factory=list[float])
    stop_s: float = 0.0
    reread_warnings: int = 0

    @property
    def exact(self) -> bool:
        return not (self.behind or self.diverged or self.events_differ or self.forked_events)


class VitalsWriter(threading.Thread):
    """Writes transactions of vitals-like records until it is stopped."""

    def __init__(self, connection: Connection, subject: Subject, seed: int, rate: float) -> None:
        super().__init__(daemon=True)
        self._subject = subject
        self._numbers = dict.fromkeys(MODELS, 0)
        self._producer = Producer(connection.transactional(f"soak-{uuid.uuid4().hex}"))
        self._topic = connection.topic(VITALS)
        self._random = random.Random(seed)
        self._rate = rate
        self._done = threading.Event()
        self.aborted = 0
        self.committed = 0

    def run(self) -> None:
        self._producer.init_transactions()
        number = 0
        while not self._done.is_set():
            size = self._random.randint(1, 6)
            self._producer.begin_transaction()
            for _ in range(size):
                number += 1
                self._write()
            self._producer.flush()
            if number <= 12 or self._random.random() < 0.2:
                self._producer.abort_transaction()
                self.aborted += 1
            else:
                self._producer.commit_transaction()
                self.committed += 1
            self._done.wait(self._random.expovariate(self._rate / 3.5))

    def _write(self) -> None:
        model = self._random.choice(MODELS)
        value = self._subject.record(self._random, model, self._numbers[model])
        self._numbers[model] += 1
        if self._random.random() < 0.01:
            value = b"\xff" + value
        self._producer.produce(self._topic, value, partition=partition_of(model, PARTITIONS))

    def stop(self) -> None:
        self._done.set()
        self.join()


class Worker:
    """A monitor in a process of its own; its output shows when it applied its first record."""

    def __init__(self, connection: Connection, instance: str, logs: Path, core: str = "chain") -> None:
        self.core = core
        self.instance = instance
        self.started = time.monotonic()
        self.log = logs / f"{instance}-{uuid.uuid4().hex[:6]}.log"
        command = [sys.executable, "-m", "tests.soak.monitor", "--worker", instance, "--core", core]
        command += ["--bootstrap", connection.bootstrap_servers, "--prefix", connection.prefix]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_applying(self, deadline_s: float = 60.0) -> float:
        """Seconds from start until the first record was applied."""
        wait_until(self._applying, f"{self.instance} applies records", deadline_s=deadline_s)
        return time.monotonic() - self.started

    def _applying(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"worker {self.instance} ended:\n{self.text()}")
        return "first record applied" in self.text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, deadline_s: float = 30.0) -> float:
        begin = time.monotonic()
        self.process.terminate()
        code = self.process.wait(deadline_s)
        if code != 0:
            raise RuntimeError(f"worker {self.instance} ended with {code}:\n{self.text()}")
        return time.monotonic() - begin


def work(connection: Connection, instance: str, subject: Subject) -> None:
    """The worker process."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("driftloop").setLevel(logging.INFO)

    run_monitor(
        connection,
        instance_id=instance,
        make_core=lambda partition: Announcing(subject.make(partition)),
        restore_core=lambda data: Announcing(subject.restore(data)),
        settings=SETTINGS,
    )


class Announcing:
    """A core that prints when the process applied its first record."""

    printed = False

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def applied_offset(self) -> int:
        return self._core.applied_offset

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
        if not Announcing.printed:
            Announcing.printed = True
            print(f"first record applied: {offset}", flush=True)
        return self._core.apply(value, offset=offset, append_time_ms=append_time_ms)

    def snapshot(self) -> bytes:
        return self._core.snapshot()


def soak(
    connection: Connection, *, core: str, kills: int, zombies: int, seed: int, rate: float, logs: Path
) -> Report:
    """Kill, freeze, and compare."""
    chance = random.Random(seed)
    report = Report(kills=kills, zombies=zombies)
    freezes = set(chance.sample(range(kills), zombies))
    writer = VitalsWriter(connection, SUBJECTS[core], seed, rate)
    writer.start()
    workers: list[Worker] = []
    worker = Worker(connection, "monitor-0", logs, core)
    for number in range(kills):
        if number in freezes:
            worker = _freeze_and_take_over(worker, connection, number, logs, workers)
        elif chance.random() < 0.15:
            time.sleep(chance.uniform(0.0, 2.0))  # during start-up
        else:
            report.restart_s.append(worker.wait_applying())
            time.sleep(chance.uniform(0.0, 2.0))
        worker.kill()
        workers.append(worker)
        worker = Worker(connection, worker.instance, logs, core)
    report.restart_s.append(worker.wait_applying())
    writer.stop()
    report.aborted_transactions, report.committed_transactions = writer.aborted, writer.committed
    with contextlib.closing(MonitorProgress(connection)) as progress:
        wait_until(lambda: progress.behind() == 0, "everything in vitals is applied")
    report.stop_s = worker.terminate()
    workers.append(worker)
    for each in workers:
        report.restored_from_snapshot += each.text().count("resumes at") - each.text().count("state at -1)")
        report.reread_warnings += each.text().count("reading again from")
    compare(connection, SUBJECTS[core], report)
    return report


def _freeze_and_take_over(
    worker: Worker, connection: Connection, number: int, logs: Path, workers: list[Worker]
) -> Worker:
    """Freeze the worker beyond its session, start another, thaw the first while the other works."""
    worker.wait_applying()
    worker.process.send_signal(signal.SIGSTOP)
    successor = Worker(connection, f"monitor-z{number}", logs, worker.core)
    successor.wait_applying()
    time.sleep(0.5)
    worker.process.send_signal(signal.SIGCONT)
    time.sleep(3.0)
    worker.kill()
    workers.append(worker)
    return successor


def compare(connection: Connection, subject: Subject, report: Report) -> None:
    """Replay the committed vitals offline and compare states and events."""
    cores = [subject.make(partition) for partition in range(PARTITIONS)]
    expected: defaultdict[Place, list[bytes]] = defaultdict(list)
    for record in read_topic(connection, VITALS):
        report.records += 1
        core = cores[record.partition]
        for event in core.apply(record.value or b"", offset=record.offset, append_time_ms=record.append_ms):
            expected[place_of(event, record.partition)].append(event.value)
    for partition, core in enumerate(cores):
        point = find_resume_point(connection, partition)
        got = subject.restore(point.snapshot.data) if point.snapshot else subject.make(partition)
        report.behind += core.applied_offset - got.applied_offset
        states = subject.states(got)
        report.diverged += [
            model for model, state in subject.states(core).items() if states.get(model) != state
        ]
    found = emitted_events(connection, PARTITIONS)
    report.events, report.re_emitted = dict(found.counts), found.repeated
    report.forked_events = len(found.forked)
    report.events_differ = found.misrouted + found.differences(expected)


@contextlib.contextmanager
def some_broker(bootstrap: str | None) -> Iterator[str]:
    """The given cluster, or an embedded broker for the time of the run."""
    if bootstrap:
        yield bootstrap
        return
    from driftloop.infra.broker.embedded import EmbeddedBroker

    with tempfile.TemporaryDirectory() as data, EmbeddedBroker(Path(data), heap_mb=384) as broker:
        yield broker.bootstrap_servers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--core", choices=SUBJECTS, default="chain", help="chain shows any slip")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--zombies", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=60.0, help="records per second")
    parser.add_argument("--bootstrap", default=os.environ.get("DRIFTLOOP_BOOTSTRAP_SERVERS"))
    parser.add_argument("--prefix", default=f"soak-{uuid.uuid4().hex[:8]}.")
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(Connection(given.bootstrap, given.prefix), given.worker, SUBJECTS[given.core])
        return 0
    with some_broker(given.bootstrap) as bootstrap, tempfile.TemporaryDirectory() as scratch:
        connection = Connection(bootstrap, given.prefix)
        apply_topics(connection, data_partitions=PARTITIONS, model_partitions=PARTITIONS)
        logs = given.logs or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        report = soak(
            connection, core=given.core, kills=given.kills, zombies=given.zombies, seed=given.seed,
            rate=given.rate, logs=logs,
        )  # fmt: skip
    times = sorted(report.restart_s)
    restarts = {"n": len(times), "p50": round(times[len(times) // 2], 2), "max": round(times[-1], 2)}
    print(json.dumps(asdict(report) | {"exact": report.exact, "restart_s": restarts}, indent=1))
    return 0 if report.exact else 1
