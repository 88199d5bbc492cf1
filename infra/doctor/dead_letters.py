"""What producers send that no stage can use: the recent dead letters, most frequent cause first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

from ...schemas.errors import DecodeError
from ...schemas.events import DeadLetterResolution
from ...schemas.reasons.shortened import shortened
from ...schemas.topics import DEAD_LETTER_RESOLUTIONS, DEAD_LETTERS
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import LogReader, newest
from ..dead_letters.model import DeadLetterRecord, group_dead_letters, once, read_dead_letter
from .findings import Finding

RECENT = 1_000  # records of each partition; `driftloop dlq ls` reads all
_RESOLUTIONS = 20 * RECENT
_MOST_CAUSES = 3
_MOST_SHOWN = 200


def check_dead_letters(connection: Connection) -> Iterator[Finding]:
    """Check whether records were refused and nobody has replayed or dropped them yet."""
    recent = {one.id: one for one in once(_recent(connection))}
    groups = group_dead_letters(recent.values(), _resolved(connection), connection.prefix)
    waiting = sorted(
        (group for group in groups if group.count > group.resolved),
        key=lambda group: group.resolved - group.count,
    )
    if not waiting:
        yield Finding("dead letters", "ok", "none of the newest is unresolved")
    for group in waiting[:_MOST_CAUSES]:
        shown = shortened(recent[group.example].event.reason, _MOST_SHOWN)
        what = f"{group.count - group.resolved} of {group.topic} refused lately: {shown}"
        yield Finding("dead letters", "warning", what, "driftloop dlq ls; see docs/dead-letters.md")


def _recent(connection: Connection) -> Iterator[DeadLetterRecord]:
    with closing(LogReader(connection, (DEAD_LETTERS,), start=newest(RECENT))) as reader:
        for record in reader.catch_up():
            with suppress(DecodeError):  # anybody can write to the topic
                yield read_dead_letter(
                    record.value, partition=record.partition, offset=record.offset, at_ms=record.append_ms
                )


def _resolved(connection: Connection) -> set[str]:
    found: set[str] = set()
    with closing(LogReader(connection, (DEAD_LETTER_RESOLUTIONS,), start=newest(_RESOLUTIONS))) as reader:
        for record in reader.catch_up():
            with suppress(DecodeError):
                found.add(DeadLetterResolution.decode(record.value or b"").dead_letter_id)
    return found
