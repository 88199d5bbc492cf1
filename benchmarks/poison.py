"""A million records that no joiner can use, and what one percent of them costs.

    python -m benchmarks.poison [--events 1000000] [--pairs 100000] [--rounds 3]

First a joiner with default settings is given only malformed records; afterwards every one of them must lie
on dead-letters, with its bytes, key, topic, partition, offset and a reason, once. Then joiners are given
the same clean traffic with and without one percent of malformed records in it, in turns; ``ratio`` is CPU
time per record with, over without. Writes ``.driftloop/bench/poison.json``; ends with an error if a record
was lost or the ratio is above 1.10.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson
from confluent_kafka import Producer
from driftloop.schemas.topics import DEAD_LETTERS, LABELS, PREDICTIONS, Topic
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.ranges import LogRanges

from tests.support.malformed.poison import Record, poison

from .join import join_in_process, joiner
from .support.cluster import cluster, fresh, model_names
from .support.events import APART, label_of, prediction_of
from .support.process import arguments
from .support.results import show, write

SHARE = 0.01
MOST = 1.10
_SEED = 20_131


@dataclass
class PoisonResult:
    """What became of the records: each is expected once, as it was."""

    sent: int = 0
    dead_letters: int = 0
    lost: int = 0
    repeated: int = 0
    altered: int = 0
    unexplained: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])

    @property
    def faults(self) -> int:
        return self.lost + self.repeated + self.altered + self.unexplained


def send(connection: Connection, records: Iterator[Record]) -> None:
    """Leaves once all are acknowledged."""
    producer = Producer(connection.producer(linger_ms=20, queue_buffering_max_messages=1_000_000))
    for number, (topic, key, value) in enumerate(records):
        while True:
            try:
                producer.produce(connection.topic(topic), value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the events could not be delivered")


def examine(connection: Connection) -> PoisonResult:
    """Compare all records of both input topics with the dead letters; all are expected to be refused."""
    found = PoisonResult()
    expected: dict[tuple[str, int, int], bytes] = {}
    for topic in (PREDICTIONS, LABELS):
        name = connection.topic(topic)
        for place, key, value in _whole(connection, topic):
            expected[(name, *place)] = _digest(key, value)
    found.sent = len(expected)
    seen: set[tuple[str, int, int]] = set()
    for _, _, value in _whole(connection, DEAD_LETTERS):
        letter = orjson.loads(value or b"")
        found.dead_letters += 1
        place = (letter["topic"], letter["partition"], letter["offset"])
        found.repeated += place in seen
        seen.add(place)
        key, original = _unpacked(letter.get("key_b64")), _unpacked(letter.get("value_b64"))
        found.altered += expected.get(place) != _digest(key, original)
        found.unexplained += not letter["reason"] or letter["stage"] != "join"
        found.reasons[letter["reason"].split(" ")[0]] += 1
    found.lost = len(expected.keys() - seen)
    return found


def _whole(
    connection: Connection, topic: Topic
) -> Iterator[tuple[tuple[int, int], bytes | None, bytes | None]]:
    offsets, ranges = LogOffsets(connection), LogRanges(connection, name="bench-poison")
    partitions = offsets.partitions(topic)
    ends = offsets.ends(topic, partitions)
    try:
        for message in ranges.read(topic, {p: range(ends[p]) for p in partitions}):
            yield (message.partition() or 0, message.offset() or 0), message.key(), message.value()
    finally:
        ranges.close()


def _digest(key: bytes | None, value: bytes | None) -> bytes:
    return blake2b(
        repr(key).encode() + b"|" + (b"none" if value is None else b"=" + value), digest_size=8
    ).digest()


def _unpacked(packed: str | None) -> bytes | None:
    return None if packed is None else base64.b64decode(packed)


def only_poison(connection: Connection, events: int, seed: int = _SEED) -> tuple[PoisonResult, float]:
    """Sends and joins that many malformed records; what was found, and records per second of wall time."""
    send(connection, poison(events, seed))
    with joiner(connection) as running:
        began = time.perf_counter()
        running.wait_for(events)
        took = time.perf_counter() - began
    return examine(connection), events / took


def mixed(pairs: int, share: float) -> Iterator[Record]:
    """Clean pairs, and among them ``share`` of all records malformed."""
    names = model_names(1)
    bad = poison(10**9, _SEED)
    owed = 0.0
    for i in range(pairs + APART):
        if i < pairs:
            yield PREDICTIONS, f"flight-{i:012d}".encode(), prediction_of(i, names, 5)
        if i >= APART:
            yield LABELS, f"flight-{i - APART:012d}".encode(), label_of(i - APART)
        owed += 2 * share / (1 - share)
        while owed >= 1:
            yield next(bad)
            owed -= 1


def cost(bootstrap: str, pairs: int, share: float) -> float:
    """CPU µs per record of a joiner in a process of its own."""
    connection = fresh(bootstrap)
    records = list(mixed(pairs, share))
    send(connection, iter(records))
    return join_in_process(connection, len(records))["us"]


def measure(bootstrap: str, events: int, pairs: int, rounds: int) -> dict[str, Any]:
    found, per_s = only_poison(fresh(bootstrap), events)
    clean: list[float] = []
    poisoned: list[float] = []
    for number in range(rounds):
        for costs, share in ((clean, 0.0), (poisoned, SHARE))[:: -1 if number % 2 else 1]:
            costs.append(cost(bootstrap, pairs, share))
    return {
        "events": found.sent, "dead_letters": found.dead_letters, "lost": found.lost,
        "repeated": found.repeated, "altered": found.altered, "unexplained": found.unexplained,
        "refused_per_s": round(per_s), "pairs": pairs, "rounds": rounds, "share": SHARE,
        "clean_us": round(statistics.median(clean), 3), "poisoned_us": round(statistics.median(poisoned), 3),
        "ratio": round(statistics.median(poisoned) / statistics.median(clean), 3), "target_ratio": MOST,
        "cleans_us": [round(us, 3) for us in clean], "poisoneds_us": [round(us, 3) for us in poisoned],
        "reasons": dict(found.reasons.most_common(12)),
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.events, given.pairs, given.rounds)
    write("poison", result)
    show(
        f"{result['events']} malformed records: {result['dead_letters']} dead letters",
        ("", "CPU µs per record", "ratio"),
        [
            ("clean", result["clean_us"], 1),
            (f"{SHARE:.0%} malformed", result["poisoned_us"], result["ratio"]),
        ],
        f"lost {result['lost']}, repeated {result['repeated']}, altered {result['altered']}; "
        f"{result['refused_per_s']} refused/s",
    )
    if (
        result["lost"] + result["repeated"] + result["altered"] + result["unexplained"]
        or result["ratio"] > MOST
    ):
        raise SystemExit("the target is missed")


if __name__ == "__main__":
    main()
