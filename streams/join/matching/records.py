"""What the joiner keeps of an id until it expires, and how that is written to disk.

Values never change: a changed one is a new one, so an aborted batch is undone by dropping its changes. The
usual cases take few objects: a pending prediction, a buffered label, a joined pair. Everything else is a
``KeyState``, and ``key_state_of`` makes one of anything. They hold no cycles, so the garbage collector
ignores all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ....schemas.base import ClassValue
from ....schemas.events import Role

Answer = str | float | None
Segments = tuple[tuple[str, str], ...]

# More under one id is of no use to its sender, and would make each further record more expensive.
MAX_PER_ID = 64


class Variant(NamedTuple):
    """Whose answers these are: what vitals, detectors and rolling accuracy are kept by."""

    model: str
    version: int
    role: Role


class Match(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The label that a prediction's newest outcome carries. ``seq`` -1: its outcome is not known yet."""

    value: ClassValue
    feedback: bool
    source: str
    matched_ms: int
    revision: int
    seq: int


class PendingPrediction(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="h"):
    """A prediction. ``prefix`` is the JSON of its outcome up to the label, without the closing brace."""

    variant: Variant
    prefix: bytes
    append_ms: int
    ts: int
    answer: Answer
    segments: Segments
    match: Match | None

    def matched(self, match: Match | None) -> PendingPrediction:
        return PendingPrediction(
            self.variant, self.prefix, self.append_ms, self.ts, self.answer, self.segments, match
        )


class BufferedLabel(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="l"):
    """A label as it came. ``used``: it reached a prediction, so its expiry is not announced."""

    value: bytes
    key: bytes | None
    append_ms: int
    offset: int
    used: bool

    def reached(self) -> BufferedLabel:
        return BufferedLabel(self.value, None, self.append_ms, self.offset, True)


class JoinedPair(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="p"):
    """A prediction (as it was pending) and the label of its one outcome, which is no feedback."""

    pending: PendingPrediction
    value: ClassValue
    source: str
    seq: int
    label: bytes
    label_ms: int
    label_offset: int

    @property
    def matched_ms(self) -> int:
        return max(self.pending.append_ms, self.label_ms)


class KeyState(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="g"):
    """Everything kept under one prediction_id; labels in their partition's order."""

    predictions: tuple[PendingPrediction, ...]
    labels: tuple[BufferedLabel, ...]


Entry = PendingPrediction | BufferedLabel | JoinedPair | KeyState

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)

encode_entry = _ENCODER.encode


def decode_entry(data: bytes) -> Entry:
    """Raise msgspec.MsgspecError for what ``encode_entry`` did not write."""
    return _DECODER.decode(data)


def key_state_of(entry: Entry) -> KeyState:
    """Return the same in the form that can hold everything."""
    if isinstance(entry, KeyState):
        return entry
    if isinstance(entry, PendingPrediction):
        return KeyState((entry,), ())
    if isinstance(entry, BufferedLabel):
        return KeyState((), (entry,))
    match = Match(entry.value, False, entry.source, entry.matched_ms, 0, entry.seq)
    return KeyState(
        (entry.pending.matched(match),),
        (BufferedLabel(entry.label, None, entry.label_ms, entry.label_offset, True),),
    )
