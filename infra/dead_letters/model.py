"""Dead letters as people see them: what each says, which ones are meant, what became of them.

No Kafka here; ``replay`` reads and writes. A dead letter is resolved by a record with its id on
``dead-letter-resolutions``; it is never changed or removed itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import orjson

from ...schemas.errors import Error
from ...schemas.events import DeadLetter, DeadLetterResolution
from ...schemas.topics import CATALOGUE, COMMANDS, LABELS, PREDICTIONS, TRIGGERS, VITALS, Topic

# Topics with many writers, whose roles accept a record at any time. Every other topic has exactly one writer.
REPLAYABLE: tuple[Topic, ...] = (PREDICTIONS, LABELS, VITALS, TRIGGERS, COMMANDS)

Header = tuple[str, bytes | None]
Resolutions = Mapping[str, DeadLetterResolution]

_GOT = re.compile(r" \(got .*|'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBER = re.compile(r"\d+")
_SHORT_REASON = 100


class DeadLetterError(Error):
    """What was asked of dead letters cannot be done; the message says why and what can."""


@dataclass(frozen=True)
class DeadLetterRecord:
    """A dead letter and its place on the log. ``at_ms``: when it was written."""

    event: DeadLetter
    partition: int
    offset: int
    at_ms: int

    @property
    def id(self) -> str:
        return self.event.id

    @cached_property
    def value(self) -> bytes | None:
        """The original bytes, as far as the dead letter has them."""
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
        """The reason without what differs from record to record, so that one cause has one kind."""
        return _NUMBER.sub("N", _GOT.sub(" …", self.event.reason)).strip()[:_SHORT_REASON]

    def origin(self, prefix: str) -> Topic | None:
        """The topic that it came from; stages that know no prefix write the bare name."""
        return next(
            (topic for topic in CATALOGUE if self.event.topic in (topic.name, topic.full_name(prefix))), None
        )


def _unpacked(packed: str | None) -> bytes | None:
    """What is not base64 is shown as it is: anybody can write to dead-letters."""
    if packed is None:
        return None
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return packed.encode(errors="surrogatepass")


def read_dead_letter(value: bytes | None, *, partition: int, offset: int, at_ms: int) -> DeadLetterRecord:
    """Raise DecodeError if the record is not a dead letter."""
    return DeadLetterRecord(DeadLetter.decode(value or b""), partition, offset, at_ms)


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects the dead letters that match everything given. ``ids`` may be beginnings of ids."""

    ids: tuple[str, ...] = ()
    stage: str | None = None
    topic: str | None = None
    model: str | None = None
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def everything(self) -> bool:
        return self == DeadLetterFilter()

    def fits(self, letter: DeadLetterRecord, prefix: str) -> bool:
        event = letter.event
        return (
            (not self.ids or letter.id.startswith(self.ids))
            and self.stage in (None, event.stage)
            and (self.topic is None or event.topic.removeprefix(prefix) == self.topic.removeprefix(prefix))
            and (self.reason or "").casefold() in event.reason.casefold()
            and (self.since_ms is None or letter.at_ms >= self.since_ms)
            and (self.until_ms is None or letter.at_ms < self.until_ms)
            and (self.model is None or letter.model == self.model)
        )


@dataclass(slots=True)
class DeadLetterGroup:
    """Dead letters of one cause. ``example``: the id of the newest."""

    stage: str
    topic: str
    model: str | None
    reason: str
    count: int = 0
    first_ms: int = 0
    last_ms: int = 0
    example: str = ""
    resolved: int = 0

    def add(self, letter: DeadLetterRecord, *, resolved: bool) -> None:
        self.first_ms = min(self.first_ms, letter.at_ms) if self.count else letter.at_ms
        if letter.at_ms >= self.last_ms:
            self.last_ms, self.example = letter.at_ms, letter.id
        self.count += 1
        self.resolved += resolved


def group_dead_letters(
    letters: Iterable[DeadLetterRecord], resolutions: Container[str], prefix: str
) -> list[DeadLetterGroup]:
    """Count dead letters by stage, topic, model and reason; the largest groups first."""
    groups: dict[tuple[str, str, str | None, str], DeadLetterGroup] = {}
    for letter in letters:
        key = (letter.event.stage, letter.event.topic.removeprefix(prefix), letter.model, letter.kind)
        groups.setdefault(key, DeadLetterGroup(*key)).add(letter, resolved=letter.id in resolutions)
    return sorted(groups.values(), key=lambda group: (-group.count, group.stage, group.topic, group.reason))


def once(letters: Iterable[DeadLetterRecord]) -> Iterable[DeadLetterRecord]:
    """Each id once: a stage that restarts may write a dead letter again."""
    seen: set[str] = set()
    for letter in letters:
        if letter.id not in seen:
            seen.add(letter.id)
            yield letter


def printable(data: bytes) -> str:
    """Text with everything else escaped, so that no record reaches a terminal as control sequences."""
    text = data.decode("utf-8", errors="backslashreplace")
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def hexdump(data: bytes) -> str:
    """One line per 16 bytes: offset, hex digits, ASCII."""
    lines: list[str] = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {shown}")
    return "\n".join(lines)
