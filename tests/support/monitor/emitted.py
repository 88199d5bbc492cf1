"""What a monitor wrote to its topics, repeats dropped by id, to be compared with a replay."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import orjson
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import DEAD_LETTERS, DRIFT, TRIGGERS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.monitor.core import Emitted

from tests.support.kafka.topics import read_topic

Place = tuple[str, bytes]
"""A topic, and the model or (of a dead letter) the vitals partition."""

IDS = ("id", "drift_id", "trigger_id")


def place_of(event: Emitted, partition: int) -> Place:
    return event.topic.name, event.key or b"%d" % partition


@dataclass(slots=True)
class EmittedEvents:
    """Events by place, each once and in order."""

    by_place: defaultdict[Place, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter[str])
    repeated: int = 0
    forked: list[str] = field(default_factory=list[str])
    misrouted: list[str] = field(default_factory=list[str])

    def differences(self, expected: dict[Place, list[bytes]]) -> list[str]:
        """Where the events are not those of the replay."""
        different: list[str] = []
        for place in sorted(expected.keys() | self.by_place.keys()):
            due, got = expected.get(place, []), self.by_place.get(place, [])
            if due != got:
                at = next((i for i, (a, b) in enumerate(zip(due, got, strict=False)) if a != b), None)
                different.append(
                    f"{place}: {len(got)} events, the replay has {len(due)}; first difference at {at}"
                )
        return different


def emitted_events(connection: Connection, partitions: int) -> EmittedEvents:
    found, first = EmittedEvents(), dict[tuple[str, str], bytes]()
    for topic in (DRIFT, TRIGGERS, DEAD_LETTERS):
        for record in read_topic(connection, topic):
            value = record.value or b"{}"
            body = orjson.loads(value)
            if topic is DEAD_LETTERS and body["stage"] != "monitor":
                continue
            name = next(body[field] for field in IDS if field in body)
            known = first.setdefault((topic.name, name), value)
            if known is not value:
                found.repeated += 1
                if known != value:
                    found.forked.append(f"{topic.name} {name}: two contents")
                continue
            keyed = record.key and topic is not DEAD_LETTERS
            key = record.key if keyed else b"%d" % body["partition"]
            found.by_place[topic.name, key or b""].append(value)
            found.counts[topic.name] += 1
            if keyed and record.partition != partition_of(record.key or b"", partitions):
                found.misrouted.append(f"{topic.name} {record.key!r} on partition {record.partition}")
    return found
