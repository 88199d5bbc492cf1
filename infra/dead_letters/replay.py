"""Reading dead letters, and dealing with them: sent again to where they came from, or dropped.

A replay is one transaction per chunk: the original records and the marks that say so. All runs share one
transactional id, so that a run that begins ends what another has open (killed, or still at work) before it
reads the marks. What a run sees as not dealt with has therefore never been sent, whoever was killed when:
each letter is sent once for read_committed readers, which all of driftloop's are. Another run that was at
work ends with an error.

On failure: nothing of the open transaction is visible, and the next run goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from confluent_kafka import KafkaException, Message, Producer

from ...schemas.errors import BrokerError, DecodeError
from ...schemas.events import DeadLetterMark
from ...schemas.topics import DEAD_LETTER_MARKS, DEAD_LETTERS, Topic
from ...streams.join.reading.placement import ORIGIN_HEADER
from ...streams.kafka.connection import Connection
from ...streams.kafka.ranges import LogOffsets, LogRanges
from .model import REPLAYABLE, Header, Letter, LetterError, Marks, Wanted, once, read_letter, read_mark

log = logging.getLogger(__name__)

REPLAY_HEADER = "driftloop-replay"
EVERY = Wanted()
_TRANSACTIONAL_ID = "dlq"
_CHUNK = 500
_CHUNK_BYTES = 8_000_000
_CALL_S = 30.0
_MAX_MESSAGE_BYTES = 4_194_304

Action = Literal["replayed", "dropped"]


@dataclass(slots=True)
class Dealt:
    """What a run did, or would have done. ``not_possible``: reason → letters left as they are."""

    done: int = 0
    already: int = 0
    by_topic: Counter[str] = field(default_factory=Counter[str])
    not_possible: Counter[str] = field(default_factory=Counter[str])


class DeadLetterLog:
    """The letters and marks on a cluster. A context manager."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.unreadable = 0
        self._begun: list[Generator[Letter]] = []
        self._offsets = LogOffsets(connection)
        self._ranges = LogRanges(connection, name="dlq")
        self._originals = LogRanges(connection, name="dlq-originals")
        self.partitions = {topic: len(self._offsets.partitions(topic)) for topic in REPLAYABLE}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for reading in self._begun:
            reading.close()  # what was not read to its end still has the consumer
        self._ranges.close()
        self._originals.close()

    def marks(self) -> dict[str, DeadLetterMark]:
        """By letter id; the newest of each."""
        found: dict[str, DeadLetterMark] = {}
        for message in self._whole(DEAD_LETTER_MARKS):
            mark = read_mark(message.value())
            if mark is not None:
                found[mark.letter_id] = mark
        return found

    def letters(self, wanted: Wanted = EVERY) -> Iterator[Letter]:
        """Those on the log now, each id once, in order per partition. ``unreadable`` counts what is none."""
        found = (one for one in once(self._all()) if wanted.fits(one, self.connection.prefix))
        self._begun.append(found)
        return found

    def one(self, letter_id: str) -> Letter:
        """The letter whose id begins so. Raises LetterError where there is none, or more than one."""
        found = list(self.letters(Wanted(ids=(letter_id,))))
        if len(found) == 1:
            return found[0]
        if not found:
            raise LetterError(
                f"no dead letter's id begins with {letter_id!r}; list them with `driftloop dlq ls --each`"
            )
        raise LetterError(f"{len(found)} dead letters' ids begin with {letter_id!r}; give more of it")

    def _all(self) -> Iterator[Letter]:
        for message in self._whole(DEAD_LETTERS):
            partition, offset = message.partition() or 0, message.offset() or 0
            try:
                yield read_letter(
                    message.value(), partition=partition, offset=offset, at_ms=message.timestamp()[1]
                )
            except DecodeError as error:
                self.unreadable += 1
                log.warning("%s[%d]@%d is no dead letter: %s", message.topic(), partition, offset, error)

    def _whole(self, topic: Topic) -> Iterator[Message]:
        partitions = self._offsets.partitions(topic)
        begins, ends = self._offsets.begins(topic, partitions), self._offsets.ends(topic, partitions)
        return self._ranges.read(topic, {p: (begins[p], ends[p]) for p in partitions})

    def original(self, letter: Letter) -> tuple[bytes | None, bytes | None, tuple[Header, ...]]:
        """Key, value and headers as they were, from the log where the letter was cut.

        Raises LetterError where they are in neither.
        """
        if not letter.event.cut:
            return letter.key, letter.value, letter.headers
        topic = letter.origin(self.connection.prefix)
        partition, offset = letter.event.partition, letter.event.offset
        if topic is not None and 0 <= partition < self.partitions[topic]:
            begin = self._offsets.begins(topic, [partition])[partition]
            end = self._offsets.ends(topic, [partition])[partition]
            if begin <= offset < end:
                for message in self._originals.read(topic, {partition: (offset, offset + 1)}):
                    found = message.headers() or []
                    headers = found.items() if isinstance(found, dict) else found
                    return message.key(), message.value(), tuple((n, _bytes(c)) for n, c in headers)
        raise LetterError("its bytes were too many for a letter, and the log no longer has them")


def no_letter(letter_id: str) -> LetterError:
    return LetterError(f"no dead letter's id begins with {letter_id!r}; see `driftloop dlq ls --each`")


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content


def deal_with(
    connection: Connection,
    action: Action,
    wanted: Wanted,
    *,
    by: str,
    why: str = "",
    dry_run: bool = False,
    again: bool = False,
    observe: Callable[[str], None] = lambda _step: None,
) -> Dealt:
    """Replays or drops the letters wanted that nobody has dealt with; ``again``: dropped ones too.

    ``observe`` is told each step of a chunk as it is done. Raises BrokerError where Kafka cannot be reached
    or another run of this command took over.
    """
    dealt = Dealt()
    with DeadLetterLog(connection) as letters:
        producer = None if dry_run else _producer(connection)
        marks = letters.marks()
        waiting = (one for one in letters.letters(wanted) if not _is_done(one, marks, again, dealt))
        for chunk in _chunks(waiting):
            records = [record for letter in chunk if (record := _record(letters, letter, action, dealt))]
            if producer is not None and records:
                marked = [_mark(letter, action, by, why) for letter, _ in records]
                _send(producer, connection, records, marked, observe)
            for letter, _ in records:
                dealt.done += 1
                dealt.by_topic[letter.event.topic.removeprefix(connection.prefix)] += 1
    return dealt


def _chunks(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    chunk: list[Letter] = []
    size = 0
    for letter in letters:
        chunk.append(letter)
        size += _MAX_MESSAGE_BYTES if letter.event.cut else len(letter.event.value_b64 or "")
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


def _is_done(letter: Letter, marks: Marks, again: bool, dealt: Dealt) -> bool:
    mark = marks.get(letter.id)
    done = mark is not None and not (again and mark.action == "dropped")
    dealt.already += done
    return done


def _record(
    letters: DeadLetterLog, letter: Letter, action: Action, dealt: Dealt
) -> tuple[Letter, _Again | None] | None:
    """None where it cannot be done, which ``dealt`` then says."""
    if action == "dropped":
        return letter, None
    topic = letter.origin(letters.connection.prefix)
    if topic not in REPLAYABLE:
        where = "no topic of driftloop's" if topic is None else "written by one role alone"
        dealt.not_possible[f"{letter.event.topic} is {where}: nothing but dropping them can be done"] += 1
        return None
    try:
        key, value, headers = letters.original(letter)
    except LetterError as error:
        dealt.not_possible[str(error)] += 1
        return None
    # Without its old origin a misplaced one may be sent on once more.
    kept = [(name, content) for name, content in headers if name not in (ORIGIN_HEADER, REPLAY_HEADER)]
    partition = letter.event.partition if 0 <= letter.event.partition < letters.partitions[topic] else -1
    return letter, _Again(
        letters.connection.topic(topic), partition, key, value, [*kept, (REPLAY_HEADER, letter.id.encode())]
    )


def _mark(letter: Letter, action: Action, by: str, why: str) -> DeadLetterMark:
    return DeadLetterMark(letter_id=letter.id, action=action, ts=time.time_ns() // 1_000_000, by=by, why=why)


def _producer(connection: Connection) -> Producer:
    producer = Producer(connection.transactional(_TRANSACTIONAL_ID, message_max_bytes=_MAX_MESSAGE_BYTES))
    try:
        producer.init_transactions(_CALL_S)
    except KafkaException as error:
        raise BrokerError(f"cannot begin: {error.args[0]}") from error
    return producer


def _send(
    producer: Producer,
    connection: Connection,
    records: list[tuple[Letter, _Again | None]],
    marks: list[DeadLetterMark],
    observe: Callable[[str], None],
) -> None:
    try:
        producer.begin_transaction()
        for _, record in records:
            if record is not None:
                producer.produce(
                    record.topic, record.value, record.key, record.partition, headers=record.headers
                )
        for mark in marks:
            producer.produce(connection.topic(DEAD_LETTER_MARKS), mark.encode(), mark.letter_id)
        producer.flush(_CALL_S)
        observe("produced")
        producer.commit_transaction(_CALL_S)
        observe("committed")
    except KafkaException as error:
        raise BrokerError(
            f"stopped at a chunk of {len(records)}, which did not happen: {error.args[0]}. Is another "
            "`driftloop dlq` at work? Run it again: it goes on where this one stopped"
        ) from error
