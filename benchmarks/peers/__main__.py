"""What the same job costs in other frameworks, beside driftloop, in one run.

    python -m benchmarks.peers [--pairs 500000] [--rounds 3] [--only quix,driftloop]

The job: join predictions and labels by id, the label 1,000 events after its prediction; ADWIN, Page-Hinkley
and a rolling accuracy over the errors; the outcome written back, with all fields of both. Each peer is
written as its own documentation has it (the files beside this one), with durable join state, in its own
environment, on the same topics, one after the other in each round. driftloop is ``driftloop join`` and
``driftloop monitor`` as a user starts them, their cost added: exactly once, validated, placement checked,
with vitals.

The figure is the CPU time of the process, all threads (from /proc; a JVM's compiler and collector too), per
event (a prediction or a label), after a warm-up of a third of the outcomes or five seconds, and for at most
25 s. Prints a table and writes ``.driftloop/bench/peers.json``. Where a peer cannot run its row says why.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from driftloop.schemas.topics import OUTCOMES
from driftloop.streams.kafka.connection import Connection

from ..support.cluster import PARTITIONS, cluster, fresh
from ..support.events import fill_in_order
from ..support.process import cpu_s, driftloop, ended, peak_rss_mb
from ..support.results import show, write
from .environments import Missing, java_command, python_of

HERE = Path(__file__).parent
WARM_UP_S = 5.0
MEASURED_S = 25.0
SILENT_S = 90.0  # without a new outcome: something is wrong

TARGETS = {"faust": 25.0, "quix": 7.0, "bytewax": 4.0, "kafka-streams": 3.0}
TITLES = {
    "driftloop": "driftloop: join + monitor, exactly once",
    "faust": "Faust 0.15, table with changelog, at least once",
    "quix": "Quix Streams 3, join_asof, at least once",
    "bytewax": "Bytewax 0.21, join with recovery, at least once",
    "kafka-streams": "Kafka Streams 4.3, exactly_once_v2",
}


@dataclass(frozen=True, slots=True)
class PeerRun:
    """One run of one peer."""

    us: float
    outcomes_per_s: float
    rss_mb: float
    outcomes: int


Starter = Callable[[ExitStack, Connection, Path, str], list[subprocess.Popen[bytes]]]


def start_driftloop(
    stack: ExitStack, connection: Connection, folder: Path, _topic: str
) -> list[subprocess.Popen[bytes]]:
    return [stack.enter_context(driftloop(role, connection, folder)) for role in ("join", "monitor")]


def starter(command: Sequence[str | Path]) -> Starter:
    def start(
        stack: ExitStack, connection: Connection, folder: Path, topic: str
    ) -> list[subprocess.Popen[bytes]]:
        given = [*command, connection.bootstrap_servers, connection.prefix, str(folder), topic]
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            given, cwd=HERE, stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        stack.callback(ended, process)
        return [process]

    return start


def peer(name: str) -> Starter:
    """How to start it. Raises Missing."""
    if name == "driftloop":
        return start_driftloop
    if name == "kafka-streams":
        return starter(java_command())
    return starter([python_of(name), HERE / f"{name}_peer.py"])


def measure(start: Starter, connection: Connection, topic: str, pairs: int) -> PeerRun:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        consumer = Consumer(connection.consumer("counts"))
        stack.callback(consumer.close)
        consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        processes = start(stack, connection, Path(folder), topic)

        def cpu() -> float:
            return sum(cpu_s(process.pid) for process in processes)

        seen, first, last = 0, 0.0, time.monotonic()
        begin: tuple[int, float, float] | None = None
        while True:
            news = sum(message.error() is None for message in consumer.consume(20_000, 0.05))
            now = time.monotonic()
            seen += news
            if news:
                last, first = now, first or now
            if any(process.poll() is not None for process in processes) or now - last > SILENT_S:
                raise SystemExit(f"no outcomes after {seen}: {_last_words(Path(folder))}")
            if begin is None and first and (seen >= pairs // 3 or now - first > WARM_UP_S):
                begin = (seen, cpu(), now)
            if begin is not None and (seen >= pairs or now - begin[2] > MEASURED_S):
                used, took, joined = cpu() - begin[1], now - begin[2], seen - begin[0]
                rss_mb = sum(peak_rss_mb(process.pid) for process in processes)
                return PeerRun(used / (2 * joined) * 1e6, joined / took, rss_mb, joined)


def _last_words(folder: Path) -> str:
    log = folder / "log"
    return log.read_text("utf-8", "replace")[-2_000:] if log.is_file() else "it wrote nothing"


def make_topic(connection: Connection, topic: str) -> None:
    new = NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1)
    admin = AdminClient(connection.client())
    for future in admin.create_topics([new]).values():
        future.result()


def run_all(bootstrap: str, names: Sequence[str], pairs: int, rounds: int) -> dict[str, Any]:
    starters: dict[str, Starter] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            starters[name] = peer(name)
        except Missing as missing:
            found[name] = {"missing": str(missing)}
    runs: dict[str, list[PeerRun]] = {name: [] for name in starters}
    for _ in range(rounds):
        connection = fresh(bootstrap)
        fill_in_order(connection, pairs)
        for name, start in starters.items():
            topic = connection.topic(OUTCOMES)
            if name != "driftloop":
                topic = f"{connection.prefix}{name}-outcomes"
                make_topic(connection, topic)
            runs[name].append(measure(start, connection, topic, pairs))
            print(f"{name}: {runs[name][-1].us:.1f} µs per event", file=sys.stderr)
    for name, of_peer in runs.items():
        found[name] = {
            "us": round(statistics.median(run.us for run in of_peer), 2),
            "outcomes_per_s": round(statistics.median(run.outcomes_per_s for run in of_peer)),
            "rss_mb": round(max(run.rss_mb for run in of_peer)),
            "runs": [asdict(run) for run in of_peer],
        }
    own = found.get("driftloop", {}).get("us")
    for name, of_peer in found.items():
        if own and "us" in of_peer:
            of_peer["ratio"] = round(of_peer["us"] / own, 1)
        if name in TARGETS:
            of_peer["target"] = TARGETS[name]
    return {"pairs": pairs, "rounds": rounds, "driftloop_us": own, "peers": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(TITLES), help="which, by name, with commas")
    parser.add_argument("--bootstrap", help="a cluster that runs; by default one is embedded")
    given = parser.parse_args()
    names = given.only.split(",")
    with cluster(given.bootstrap) as bootstrap:
        result = run_all(bootstrap, names, given.pairs, given.rounds)
    if set(TITLES) <= set(names):
        write("peers", result)
    rows: list[tuple[object, ...]] = []
    for name, found in result["peers"].items():
        if "missing" in found:
            rows.append((TITLES[name], found["missing"], "", "", "", ""))
        else:
            target = f"≥ {TARGETS[name]:g}" if name in TARGETS else ""
            cells = (found["us"], found.get("ratio", ""), target, found["outcomes_per_s"], found["rss_mb"])
            rows.append((TITLES.get(name, name), *cells))
    columns = ("", "CPU µs per event", "times driftloop", "target", "outcomes/s", "MB")
    show(f"the same job, {given.pairs} pairs, {given.rounds} rounds", columns, rows)


if __name__ == "__main__":
    main()
