"""The joiner's books, as committed, against what the logs say, and against the states it left on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection
from rocksdict import AccessType, Options, Rdict

from tests.soak.checks.findings import Findings
from tests.soak.checks.join import Joined

# A position's numbers: eight of its own, then these of predictions and these of labels.
_OWN = 8
_CLASSES = ("read", "outcomes", "pending", "expired", "refused", "repeated", "misrouted")
_SURE = ("read", "misrouted")
_TIMEOUT_S = 60.0

Account = dict[str, int]


def check_books(connection: Connection, joined: Joined, findings: Findings) -> None:
    """Every partition's books balance, and each of their numbers is the one that the logs give."""
    for (topic, partition), numbers in _committed(connection, sorted(joined.books)).items():
        wanted, where = joined.books[partition], f"{topic}[{partition}]"
        account = _accounts(numbers).get(topic)
        if account is None:
            findings.add("books_mismatch", f"{where}: no books")
            continue
        if account["read"] != sum(account.values()) - account["read"]:
            findings.add("books_unbalanced", f"{where}: {account}")
        account["unmet"] = account.pop("pending") + account.pop("expired")
        for name, number in account.items():
            must = wanted.counts[topic, name]
            if number != must and (name in _SURE or not wanted.unclear):
                findings.add("books_mismatch", f"{where}: the books say {number} {name}, the logs {must}")


def _committed(connection: Connection, partitions: list[int]) -> dict[tuple[str, int], list[int]]:
    """What the group committed with its offsets, by topic and partition."""
    admin, group = AdminClient(connection.client()), connection.group("join")
    names = {connection.topic(topic): topic.name for topic in (PREDICTIONS, LABELS)}
    places = [TopicPartition(name, number) for name in names for number in partitions]
    (asked,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]).values()
    found = asked.result(_TIMEOUT_S).topic_partitions
    return {(names[one.topic], one.partition): json.loads(one.metadata or "[]") for one in found}


def _accounts(numbers: list[int]) -> dict[str, Account]:
    """The accounts that follow a position's own numbers; none if they are left out."""
    rest, size = numbers[_OWN:], len(_CLASSES)
    return {
        topic: dict(zip(_CLASSES, part, strict=True))
        for topic, part in (("predictions", rest[:size]), ("labels", rest[size:]))
        if part
    }


def check_states(folders: Iterable[Path], findings: Findings) -> int:
    """In each state that was left on disk as much waits as its books say; return how many there are."""
    counted = 0
    for folder in folders:
        store = Rdict(str(folder), Options(raw_mode=True), access_type=AccessType.read_only())
        written = cast("bytes | None", store.get(b"m"))
        entries = cast("Iterator[tuple[bytes, bytes]]", store.items(from_key=b"e"))
        waiting = _waiting(value for _, value in takewhile(_is_entry, entries))
        store.close()
        if written is None:
            continue
        counted += 1
        _, *numbers = json.loads(written)
        booked = {topic: account["pending"] for topic, account in _accounts(numbers).items()}
        if booked != waiting:
            findings.add("books_mismatch", f"{folder}: {waiting} wait, the books of that state say {booked}")
    return counted


def _is_entry(pair: tuple[bytes, bytes]) -> bool:
    return pair[0].startswith(b"e")


def _waiting(values: Iterable[bytes]) -> Account:
    """Predictions without a match and labels that were not used, in entries as they are written."""
    predictions = labels = 0
    for value in values:
        kind, *fields = cast("list[Any]", msgspec.msgpack.decode(value))
        if kind == "h":
            predictions += fields[-1] is None
        elif kind == "l":
            labels += not fields[-1]
        elif kind == "g":
            predictions += sum(one[-1] is None for one in fields[0])
            labels += sum(not one[-1] for one in fields[1])
    return {"predictions": predictions, "labels": labels}
