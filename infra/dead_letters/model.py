"""Dead letters as people deal with them: what a letter says, which ones are meant, what became of them.

No Kafka here; ``dlq_log`` reads and writes. A letter is dealt with when a mark of its id lies on
``dead-letter-marks``: letters themselves are never changed or removed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import orjson

from ...schemas.errors import DecodeError, Error
from ...schemas.events import DeadLetter, DeadLetterMark
from ...schemas.topics import CATALOGUE, COMMANDS, LABELS, PREDICTIONS, TRIGGERS, VITALS, Topic

# What many may send, and a role takes again at any time. The rest has one writer, which alone may write it.
REPLAYABLE: tuple[Topic, ...] = (PREDICTIONS, LABELS, VITALS, TRIGGERS, COMMANDS)

Header = tuple[str, bytes | None]
Marks = Mapping[str, DeadLetterMark]

_GOT = re.compile(r" \(got .*|'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBER = re.compile(r"\d+")
_SHORT_REASON = 100


class LetterError(Error):
    """What was asked of dead letters cannot be done; the message says why and what can."""


@dataclass(frozen=True)
class Letter:
    """A dead letter where it lies. ``at_ms``: when it was written."""

    event: DeadLetter
    partition: int
    offset: int
    at_ms: int

    @property
    def id(self) -> str:
        return self.event.id

    @cached_property
    def value(self) -> bytes | None:
        """The original bytes, as far as the letter has them."""
        return _unpacked(self.event.value_b64)

    @cached_property
    def key(self) -> bytes | None:
        return _unpacked(self.event.key_b64)

    @cached_property
    def headers(self) -> tuple[Header, ...]:
        return tuple((name, _unpacked(content)) for name, content in self.event.headers_b64 or ())

    @cached_property
    def model(self) -> str | None:
        """The model that its bytes name, where they are JSON and name one."""
        try:
            found = orjson.loads(self.value or b"")
        except orjson.JSONDecodeError:
            return None
        named = cast("dict[str, Any]", found).get("model") if isinstance(found, dict) else None
        return named if isinstance(named, str) else None

    @property
    def kind(self) -> str:
        """The reason without what differs from record to record: letters of one cause share it."""
        return _NUMBER.sub("N", _GOT.sub(" …", self.event.reason)).strip()[:_SHORT_REASON]

    def origin(self, prefix: str) -> Topic | None:
        """The topic that it came from; stages that know no prefix write the bare name."""
        return next(
            (topic for topic in CATALOGUE if self.event.topic in (topic.name, topic.full_name(prefix))), None
        )


def _unpacked(packed: str | None) -> bytes | None:
    """Anybody can write to dead-letters: what is no base64 is shown as it is."""
    if packed is None:
        return None
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return packed.encode(errors="surrogatepass")


def read_letter(value: bytes | None, *, partition: int, offset: int, at_ms: int) -> Letter:
    """Raises DecodeError where the record is no dead letter."""
    return Letter(DeadLetter.decode(value or b""), partition, offset, at_ms)


def read_mark(value: bytes | None) -> DeadLetterMark | None:
    """None where the record is no mark."""
    try:
        return DeadLetterMark.decode(value or b"")
    except DecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant: all that fit everything given. ``ids`` may be beginnings of ids."""

    ids: tuple[str, ...] = ()
    stage: str | None = None
    topic: str | None = None
    model: str | None = None
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def everything(self) -> bool:
        return self == Wanted()

    def fits(self, letter: Letter, prefix: str) -> bool:
        event = letter.event
        if self.ids and not any(letter.id.startswith(wanted) for wanted in self.ids):
            return False
        if self.stage is not None and event.stage != self.stage:
            return False
        if self.topic is not None and event.topic.removeprefix(prefix) != self.topic.removeprefix(prefix):
            return False
        if self.reason is not None and self.reason.casefold() not in event.reason.casefold():
            return False
        if self.since_ms is not None and letter.at_ms < self.since_ms:
            return False
        if self.until_ms is not None and letter.at_ms >= self.until_ms:
            return False
        return self.model is None or letter.model == self.model


@dataclass(slots=True)
class Heap:
    """Letters of one cause. ``example``: the id of the newest."""

    stage: str
    topic: str
    model: str | None
    kind: str
    count: int = 0
    first_ms: int = 0
    last_ms: int = 0
    example: str = ""
    dealt_with: int = 0

    def add(self, letter: Letter, *, dealt_with: bool) -> None:
        self.first_ms = min(self.first_ms, letter.at_ms) if self.count else letter.at_ms
        if letter.at_ms >= self.last_ms:
            self.last_ms, self.example = letter.at_ms, letter.id
        self.count += 1
        self.dealt_with += dealt_with


@dataclass(slots=True)
class Heaps:
    """Counts letters by stage, topic, model and reason."""

    prefix: str
    heaps: dict[tuple[str, str, str | None, str], Heap] = field(
        default_factory=dict[tuple[str, str, str | None, str], Heap]
    )

    def add(self, letter: Letter, marks: Container[str]) -> None:
        event = letter.event
        key = (event.stage, event.topic.removeprefix(self.prefix), letter.model, letter.kind)
        self.heaps.setdefault(key, Heap(*key)).add(letter, dealt_with=letter.id in marks)

    def largest_first(self) -> list[Heap]:
        return sorted(self.heaps.values(), key=lambda heap: (-heap.count, heap.stage, heap.topic, heap.kind))


def once(letters: Iterable[Letter]) -> Iterable[Letter]:
    """Each id once: a stage that starts anew may write a letter again."""
    seen: set[str] = set()
    for letter in letters:
        if letter.id not in seen:
            seen.add(letter.id)
            yield letter


def printable(data: bytes) -> str:
    """Text with everything else escaped: a poisoned record must not reach a terminal as control sequences."""
    text = data.decode("utf-8", errors="backslashreplace")
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def hexdump(data: bytes) -> str:
    """Offset, 16 bytes, and what of them is ASCII, per line."""
    lines: list[str] = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {shown}")
    return "\n".join(lines)
