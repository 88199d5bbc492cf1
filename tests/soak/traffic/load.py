"""The load generator: sends the stories at a rate, and keeps its own ledger of what was acknowledged.

A process of its own: ``python -m tests.soak.traffic.load FOLDER BOOTSTRAP PREFIX --seed … --rate …``. SIGTERM
ends it: it waits for every acknowledgement, then writes ``load.json``.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.soak.traffic.ledger import LedgerWriter
from tests.soak.traffic.story import RECORDS_PER_STORY, LoadProfile, LoadRecord, load_records

_CHUNK_S = 0.02
_FLUSH_S = 240.0
_MOST_WAITING = 50_000  # records in flight: beyond that the brokers set the pace


@dataclass(slots=True)
class Sent:
    """What was sent so far."""

    predictions: int = 0
    labels: int = 0
    failed: int = 0
    reason: str = ""


class Load:
    def __init__(self, connection: Connection, folder: Path, profile: LoadProfile, partitions: int) -> None:
        self._topics = connection.topic(PREDICTIONS), connection.topic(LABELS)
        self._partitions = partitions
        self._stories = load_records(profile)
        self._rate = profile.rate
        self._folder = folder
        self._ledger = LedgerWriter(folder / "acknowledged.bin")
        settings = connection.producer(queue_buffering_max_messages=_MOST_WAITING, linger_ms=20)
        self._producer = Producer({**settings, "on_delivery": self._delivered})
        self.sent = Sent()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.sent.failed += 1
            self.sent.reason = str(error)
            return
        self._ledger.write(
            message.topic() == self._topics[1],
            message.partition() or 0,
            message.offset() or 0,
            bytes(message.value() or b""),  # type: ignore[arg-type]
        )

    def run(self, stop: threading.Event, seconds: float) -> None:
        started = flushed = time.monotonic()
        count = 0
        while not stop.is_set() and (now := time.monotonic()) - started < seconds:
            owed = min(int((now - started) * self._rate) - count, int(self._rate))
            for _ in range(owed):
                self._send(next(self._stories))
            count += owed
            self._producer.poll(0)
            if now - flushed > 0.5:
                flushed = now
                self._ledger.flush()
                self._report(now - started)
            stop.wait(_CHUNK_S)
        lasted = time.monotonic() - started
        left = self._producer.flush(_FLUSH_S)
        self.sent.failed += left
        self._ledger.close()
        self._report(lasted, done=True)

    def _send(self, record: LoadRecord) -> None:
        place = {}
        if record.misrouted:
            place = {"partition": (partition_of(record.key, self._partitions) + 1) % self._partitions}
        while True:
            try:
                self._producer.produce(self._topics[record.label], record.value, record.key, **place)
                break
            except BufferError:
                self._producer.poll(0.05)
        if record.label:
            self.sent.labels += 1
        else:
            self.sent.predictions += 1

    def _report(self, lasted_s: float, *, done: bool = False) -> None:
        sent = self.sent
        report = {
            "predictions": sent.predictions,
            "labels": sent.labels,
            "acknowledged": self._ledger.entries,
            "failed": sent.failed,
            "reason": sent.reason,
            "seconds": round(lasted_s, 1),
            "rate_asked": self._rate,
            "rate_reached": round(self._ledger.entries / max(lasted_s, 1e-9), 1),
            "done": done,
        }
        file = self._folder / "load.json"
        file.with_suffix(".new").write_text(json.dumps(report), "utf-8")
        file.with_suffix(".new").replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("bootstrap")
    parser.add_argument("prefix")
    for name, kind in (("seed", int), ("rate", float), ("start-ms", int), ("late-s", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    late_after = max(2_500, int(given.late_s * given.rate / RECORDS_PER_STORY))
    profile = LoadProfile(given.seed, given.start_ms, given.rate, late_after)
    Load(Connection(given.bootstrap, given.prefix), given.folder, profile, given.partitions).run(
        stop, given.seconds
    )


if __name__ == "__main__":
    main()
