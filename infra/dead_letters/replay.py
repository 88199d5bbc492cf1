"""Reading dead letters, and resolving them: sent again to where they came from, or dropped.

A replay is one transaction per chunk: the original records and the resolutions that say so. All runs share
one transactional id, so a run first ends any transaction that another one left open (killed, or still at
work), then reads the resolutions. Whatever it sees as open has therefore never been sent, whichever run was
killed when: each dead letter is sent once for read_committed readers, which all of driftloop's are. Another
run that was still at work ends with an error.

On failure: nothing of the open transaction is visible, and the next run goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from confluent_kafka import Message

from ...schemas.errors import BrokerError, DecodeError
from ...schemas.events import DeadLetterAction, DeadLetterResolution
from ...schemas.topics import DEAD_LETTER_RESOLUTIONS, DEAD_LETTERS, Topic
from ...streams.join.reading.placement import ORIGIN_HEADER
from ...streams.kafka.connection import Connection
from ...streams.kafka.offsets import LogOffsets
from ...streams.kafka.ranges import LogRanges
from ...streams.kafka.transactions import MAX_MESSAGE_BYTES, Aborted, Transactions
from .model import (
    REPLAYABLE,
    DeadLetterError,
    DeadLetterFilter,
    DeadLetterRecord,
    Header,
    Resolutions,
    once,
    read_dead_letter,
)

log = logging.getLogger(__name__)

REPLAY_HEADER = "driftloop-replay"
ALL = DeadLetterFilter()
_TRANSACTIONAL_ID = "dlq"
_CHUNK = 500
_CHUNK_BYTES = 8_000_000
_CALL_S = 30.0
_RIVAL = "another `driftloop dlq` took over"


@dataclass(slots=True)
class ResolveResult:
    """What a run did, or would have done. ``not_possible``: reason → dead letters left as they are."""

    done: int = 0
    already: int = 0
    by_topic: Counter[str] = field(default_factory=Counter[str])
    not_possible: Counter[str] = field(default_factory=Counter[str])


class DeadLetterLog:
    """The dead letters and resolutions on a cluster. A context manager."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.unreadable = 0
        self._begun: list[Generator[DeadLetterRecord]] = []
        self._offsets = LogOffsets(connection)
        self._ranges = LogRanges(connection, name="dlq")
        self._originals = LogRanges(connection, name="dlq-originals")
        self.partitions = {topic: len(self._offsets.partitions(topic)) for topic in REPLAYABLE}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reading in self._begun:
            reading.close()  # what was not read to its end still has the consumer
        self._ranges.close()
        self._originals.close()

    def resolutions(self) -> dict[str, DeadLetterResolution]:
        """By dead letter id; the newest of each."""
        found: dict[str, DeadLetterResolution] = {}
        for message in self._whole(DEAD_LETTER_RESOLUTIONS):
            with suppress(DecodeError):
                resolution = DeadLetterResolution.decode(message.value() or b"")
                found[resolution.dead_letter_id] = resolution
        return found

    def dead_letters(self, wanted: DeadLetterFilter = ALL) -> Iterator[DeadLetterRecord]:
        """Those on the log now, each id once, in order per partition. ``unreadable`` counts other records."""
        found = (one for one in once(self._all()) if wanted.fits(one, self.connection.prefix))
        self._begun.append(found)
        return found

    def one(self, dead_letter_id: str) -> DeadLetterRecord:
        """The dead letter whose id begins so. Raises DeadLetterError if there is none, or more than one."""
        found = list(self.dead_letters(DeadLetterFilter(ids=(dead_letter_id,))))
        if len(found) == 1:
            return found[0]
        if not found:
            raise no_such_dead_letter(dead_letter_id)
        raise DeadLetterError(
            f"{len(found)} dead letters' ids begin with {dead_letter_id!r}; give more of it"
        )

    def _all(self) -> Iterator[DeadLetterRecord]:
        for message in self._whole(DEAD_LETTERS):
            partition, offset = message.partition() or 0, message.offset() or 0
            try:
                yield read_dead_letter(
                    message.value(), partition=partition, offset=offset, at_ms=message.timestamp()[1]
                )
            except DecodeError as error:
                self.unreadable += 1
                log.warning("%s[%d]@%d is no dead letter: %s", message.topic(), partition, offset, error)

    def _whole(self, topic: Topic) -> Iterator[Message]:
        partitions = self._offsets.partitions(topic)
        begins, ends = self._offsets.begins(topic, partitions), self._offsets.ends(topic, partitions)
        return self._ranges.read(topic, {p: range(begins[p], ends[p]) for p in partitions})

    def original(self, letter: DeadLetterRecord) -> tuple[bytes | None, bytes | None, tuple[Header, ...]]:
        """Key, value and headers as they were, from the log if the dead letter was cut.

        Raises DeadLetterError if neither has them.
        """
        if not letter.event.cut:
            return letter.key, letter.value, letter.headers
        topic = letter.origin(self.connection.prefix)
        partition, offset = letter.event.partition, letter.event.offset
        if topic is not None and 0 <= partition < self.partitions[topic]:
            begin = self._offsets.begins(topic, [partition])[partition]
            end = self._offsets.ends(topic, [partition])[partition]
            if begin <= offset < end:
                for message in self._originals.read(topic, {partition: range(offset, offset + 1)}):
                    found = message.headers() or []
                    headers = found.items() if isinstance(found, dict) else found
                    return message.key(), message.value(), tuple((n, _bytes(c)) for n, c in headers)
        raise DeadLetterError("its bytes were too many for a dead letter, and the log no longer has them")


def no_such_dead_letter(dead_letter_id: str) -> DeadLetterError:
    return DeadLetterError(
        f"no dead letter's id begins with {dead_letter_id!r}; list them with `driftloop dlq ls --each`"
    )


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content


def resolve(
    connection: Connection,
    action: DeadLetterAction,
    wanted: DeadLetterFilter,
    *,
    by: str,
    why: str = "",
    dry_run: bool = False,
    again: bool = False,
    observe: Callable[[str], None] = lambda _step: None,
) -> ResolveResult:
    """Replay or drop the open dead letters that ``wanted`` selects; ``again``: dropped ones too.

    ``observe`` is called after each step of a chunk. Raises BrokerError where Kafka cannot be reached
    or another run of this command took over.
    """
    result = ResolveResult()
    with DeadLetterLog(connection) as reader:
        transactions = None if dry_run else _started(connection)
        resolutions = reader.resolutions()
        waiting = (
            one for one in reader.dead_letters(wanted) if not _is_done(one, resolutions, again, result)
        )
        for chunk in _chunks(waiting):
            records = [record for letter in chunk if (record := _record(reader, letter, action, result))]
            if transactions is not None and records:
                now_ms = time.time_ns() // 1_000_000
                marked = [
                    DeadLetterResolution(dead_letter_id=letter.id, action=action, ts=now_ms, by=by, why=why)
                    for letter, _ in records
                ]
                _send(transactions, connection, records, marked, observe)
            for letter, _ in records:
                result.done += 1
                result.by_topic[letter.event.topic.removeprefix(connection.prefix)] += 1
    return result


def _chunks(letters: Iterable[DeadLetterRecord]) -> Iterator[list[DeadLetterRecord]]:
    chunk: list[DeadLetterRecord] = []
    size = 0
    for letter in letters:
        chunk.append(letter)
        size += MAX_MESSAGE_BYTES if letter.event.cut else len(letter.event.value_b64 or "")
        if len(chunk) == _CHUNK or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True)
class _Again:
    """A record as it is sent again; ``partition`` -1: by its key."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


def _is_done(letter: DeadLetterRecord, resolutions: Resolutions, again: bool, result: ResolveResult) -> bool:
    resolution = resolutions.get(letter.id)
    done = resolution is not None and not (again and resolution.action == "dropped")
    result.already += done
    return done


def _record(
    reader: DeadLetterLog, letter: DeadLetterRecord, action: DeadLetterAction, result: ResolveResult
) -> tuple[DeadLetterRecord, _Again | None] | None:
    """None if it cannot be done; ``result`` then counts it with the reason."""
    if action == "dropped":
        return letter, None
    topic = letter.origin(reader.connection.prefix)
    if topic not in REPLAYABLE:
        where = "not a topic of driftloop" if topic is None else "written by one role alone"
        result.not_possible[f"{letter.event.topic} is {where}: they can only be dropped"] += 1
        return None
    try:
        key, value, headers = reader.original(letter)
    except DeadLetterError as error:
        result.not_possible[str(error)] += 1
        return None
    # Without its old origin header a misrouted record may be sent on once more.
    kept = [(name, content) for name, content in headers if name not in (ORIGIN_HEADER, REPLAY_HEADER)]
    partition = letter.event.partition if 0 <= letter.event.partition < reader.partitions[topic] else -1
    return letter, _Again(
        reader.connection.topic(topic), partition, key, value, [*kept, (REPLAY_HEADER, letter.id.encode())]
    )


def _started(connection: Connection) -> Transactions:
    transactions = Transactions(
        connection, _TRANSACTIONAL_ID, call_s=_CALL_S, timeout_s=_CALL_S, rival=_RIVAL
    )
    transactions.start()
    return transactions


def _send(
    transactions: Transactions,
    connection: Connection,
    records: list[tuple[DeadLetterRecord, _Again | None]],
    resolutions: list[DeadLetterResolution],
    observe: Callable[[str], None],
) -> None:
    def send() -> None:
        for _, record in records:
            if record is not None:
                transactions.send(record.topic, record.value, record.key, record.partition, record.headers)
        topic = connection.topic(DEAD_LETTER_RESOLUTIONS)
        for resolution in resolutions:
            transactions.send(topic, resolution.encode(), resolution.dead_letter_id)
        transactions.flush()

    try:
        transactions.run(send, observe=observe)
    except (Aborted, BrokerError) as error:
        raise BrokerError(
            f"stopped at a chunk of {len(records)}, which did not happen: {error}. Run it again: it goes on "
            "where this one stopped"
        ) from error
    observe("committed")
