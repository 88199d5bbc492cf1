"""What the joiner holds of an id until its time is over, and how that lies on disk.

Values never change: a changed one is a new one, so that an aborted batch is forgotten by forgetting its
changes. What is usual is held in few objects: a prediction that waits, a label that waits, a pair that has
met; everything else is a ``Group``, and ``group_of`` makes one of anything. The garbage collector never
looks at any of them: they hold no cycles.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ...schemas.base import ClassValue
from ...schemas.events import Role

Answer = str | float | None
Segments = tuple[tuple[str, str], ...]

# Whoever sends more than this under one id has no use for it, and would make each further one dearer.
MAX_PER_ID = 64


class Track(NamedTuple):
    """Whose answers these are: what vitals, detectors and rolling accuracy are kept by."""

    model: str
    version: int
    role: Role


class Match(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The label that a prediction's newest outcome carries. ``seq`` -1: its outcome is not known yet."""

    value: ClassValue
    verdict: bool
    source: str
    matched_ms: int
    revision: int
    seq: int


class Held(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="h"):
    """A prediction: ``head`` is the JSON of its outcome up to the label, without the closing brace."""

    track: Track
    head: bytes
    append_ms: int
    ts: int
    answer: Answer
    segments: Segments
    match: Match | None

    def matched(self, match: Match | None) -> Held:
        return Held(self.track, self.head, self.append_ms, self.ts, self.answer, self.segments, match)


class KeptLabel(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="l"):
    """A label as it came. ``used``: it reached a prediction, so nobody misses it when its time is over."""

    value: bytes
    key: bytes | None
    append_ms: int
    offset: int
    used: bool

    def reached(self) -> KeptLabel:
        return KeptLabel(self.value, None, self.append_ms, self.offset, True)


class Pair(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="p"):
    """A prediction (as it waited) and the label of its one outcome, which is no verdict."""

    held: Held
    value: ClassValue
    source: str
    seq: int
    label: bytes
    label_ms: int
    label_offset: int

    @property
    def matched_ms(self) -> int:
        return max(self.held.append_ms, self.label_ms)


class Group(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="g"):
    """All that is held under one prediction_id; labels in their partition's order."""

    predictions: tuple[Held, ...]
    labels: tuple[KeptLabel, ...]


Entry = Held | KeptLabel | Pair | Group

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)

encode_entry = _ENCODER.encode


def decode_entry(data: bytes) -> Entry:
    """Raises msgspec.MsgspecError for what ``encode_entry`` has not made."""
    return _DECODER.decode(data)


def group_of(entry: Entry) -> Group:
    """The same, told in the one way that holds everything."""
    if isinstance(entry, Group):
        return entry
    if isinstance(entry, Held):
        return Group((entry,), ())
    if isinstance(entry, KeptLabel):
        return Group((), (entry,))
    match = Match(entry.value, False, entry.source, entry.matched_ms, 0, entry.seq)
    return Group(
        (entry.held.matched(match),),
        (KeptLabel(entry.label, None, entry.label_ms, entry.label_offset, True),),
    )
