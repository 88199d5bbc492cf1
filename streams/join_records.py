"""What the joiner holds of an id until its time is over, and how that lies on disk.

Values never change: a changed one is a new one, so that an aborted batch is forgotten by forgetting its
changes.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import NamedTuple, cast

import orjson

from ..schemas.base import ClassValue
from ..schemas.events import Role

Answer = str | float | None
Segments = tuple[tuple[str, str], ...]

# Whoever sends more than this under one id has no use for it, and would make each further one dearer.
MAX_PER_ID = 64


class Track(NamedTuple):
    """Whose answers these are: what vitals, detectors and rolling accuracy are kept by."""

    model: str
    version: int
    role: Role


class Match(NamedTuple):
    """The label that a prediction's newest outcome carries. ``seq`` -1: its outcome is not known yet."""

    value: ClassValue
    verdict: bool
    source: str
    matched_ms: int
    revision: int
    seq: int


class Held(NamedTuple):
    """A prediction: ``head`` is the JSON of its outcome up to the label, without the closing brace."""

    track: Track
    head: bytes
    append_ms: int
    ts: int
    answer: Answer
    segments: Segments
    match: Match | None


class KeptLabel(NamedTuple):
    """A label as it came. ``used``: it reached a prediction, so nobody misses it when its time is over."""

    value: bytes
    key: bytes | None
    append_ms: int
    offset: int
    used: bool


class Group(NamedTuple):
    """All that is held under one prediction_id; labels in their partition's order."""

    predictions: tuple[Held, ...]
    labels: tuple[KeptLabel, ...]


Recall = Callable[[bytes, int, Match | None], Held]


def encode_group(group: Group) -> bytes:
    """One line of JSON (sizes and numbers) and then the payloads as they are."""
    heads = [held.head for held in group.predictions]
    values = [label.value for label in group.labels]
    numbers = [
        [
            (len(held.head), held.append_ms, None if held.match is None else tuple(held.match))
            for held in group.predictions
        ],
        [
            (
                len(label.value),
                label.append_ms,
                label.offset,
                label.used,
                None if label.key is None else b64encode(label.key).decode(),
            )
            for label in group.labels
        ],
    ]
    return b"".join((orjson.dumps(numbers), b"\n", *heads, *values))


def decode_group(data: bytes, recall: Recall) -> Group:
    """``recall`` makes a Held of head, append time and match."""
    end = data.index(b"\n")
    sizes, kept = cast(
        "tuple[list[tuple[int, int, list[object] | None]], list[tuple[int, int, int, bool, str | None]]]",
        orjson.loads(data[:end]),
    )
    at = end + 1
    predictions: list[Held] = []
    for size, append_ms, match in sizes:
        predictions.append(
            recall(data[at : at + size], append_ms, None if match is None else Match._make(match))
        )
        at += size
    labels: list[KeptLabel] = []
    for size, append_ms, offset, used, key in kept:
        labels.append(
            KeptLabel(data[at : at + size], None if key is None else b64decode(key), append_ms, offset, used)
        )
        at += size
    return Group(tuple(predictions), tuple(labels))
