"""Committed offsets, in the order in which they took effect: none goes back, none is beyond its log's end."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from driftloop.schemas.topics import Topic
from driftloop.streams.kafka.connection import Connection

from tests.soak.checks.findings import Findings
from tests.soak.checks.logs import Line, read_topic

_TOPIC = "__consumer_offsets"
_CALL_S = 30.0


class Place(NamedTuple):
    group: str
    topic: str
    partition: int


class Commit(NamedTuple):
    place: Place
    offset: int


def check_offsets(connection: Connection, group: str, topics: Iterable[Topic], findings: Findings) -> int:
    """Check every commit of one group on these topics; return how many were read."""
    wanted = {connection.topic(topic) for topic in topics}
    name = connection.group(group)
    commits = [
        commit for commit in _commits(connection)
        if commit.place.group == name and commit.place.topic in wanted
    ]  # fmt: skip
    check_commits(commits, _ends(connection, {commit.place for commit in commits}), findings)
    return len(commits)


def check_commits(commits: Iterable[Commit], ends: dict[Place, int], findings: Findings) -> None:
    """``commits`` in the order of the log; ``ends``: of the logs that they are about."""
    reached: dict[Place, int] = {}
    for place, offset in commits:
        where = f"{place.group} on {place.topic}[{place.partition}]"
        if offset < reached.get(place, 0):
            findings.add("offsets_back", f"{where}: {offset} after {reached[place]}")
        if offset > ends[place]:
            findings.add("offsets_inconsistent", f"{where}: {offset}, the log ends at {ends[place]}")
        reached[place] = offset


def _commits(connection: Connection) -> Iterator[Commit]:
    """All of them but those of aborted transactions."""
    topics = AdminClient(connection.client()).list_topics(_TOPIC, timeout=_CALL_S).topics
    for number in topics[_TOPIC].partitions:
        for line in read_topic(connection, _TOPIC, number):
            commit = commit_of(line)
            if commit is not None:
                yield commit


def commit_of(line: Line) -> Commit | None:
    """Kafka's OffsetCommitKey (versions 0 and 1) and the offset of its value; None for all else there."""
    if not line.key or not line.value:
        return None
    (version,) = struct.unpack_from(">h", line.key)
    if version > 1:
        return None  # a group's members
    group, at = _string(line.key, 2)
    topic, at = _string(line.key, at)
    (partition,) = struct.unpack_from(">i", line.key, at)
    (offset,) = struct.unpack_from(">q", line.value, 2)
    return Commit(Place(group, topic, partition), offset)


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + length].decode(), at + 2 + length


def _ends(connection: Connection, places: set[Place]) -> dict[Place, int]:
    with closing(Consumer(connection.consumer("soak-offsets"))) as reader:
        return {
            place: reader.get_watermark_offsets(TopicPartition(place.topic, place.partition), _CALL_S)[1]
            for place in places
        }
