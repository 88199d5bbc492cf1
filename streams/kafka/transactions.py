"""The one transactional producer of a process: what it writes, and the offsets of what it read, or neither.

A transaction, step by step, and what happens if the process is killed after each:

1. ``start`` has fenced a predecessor with the same transactional id and ended what it left open. Nothing of
   ours is on the log.
2. Records are sent. They are on the log, and no read_committed reader sees them. The successor's ``start``,
   or the broker after ``transaction.timeout.ms``, aborts them; the successor reads the same input again.
3. The offsets are sent. They are part of the transaction, so as 2. Until it has ended, a reader that asks for
   the group's stable offsets waits.
4. The commit is sent. If the coordinator received it, all is visible, and the successor goes on after it;
   if not, as 2. Nothing in between is possible.
5. The commit is answered. What the caller keeps in memory and on disk may be behind the log, never ahead.

On failure, as librdkafka classes errors: after a retriable one the same call is repeated; after one that
requires an abort the transaction is aborted, and ``Aborted`` tells the caller to read its input again; after
any other one the producer is finished, and BrokerError says why the process must end. Most often Kafka has
fenced it: another process has the same id, or it stood still for longer than ``transaction.timeout.ms``.
Nothing of a transaction that failed is visible to read_committed readers.

A request that was repeated may still be under way and would act on the next transaction (``doubt``). So after
a lost connection, a time-out, a repeated call or an abort, the next transaction begins with a new producer,
which fences whatever is late. That costs about 60 ms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from ...schemas.errors import BrokerError
from .connection import ConfigValue, Connection
from .doubt import Doubt, watched
from .offsets import topic_partitions
from .retry import retry

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4_194_304  # max.message.bytes of every topic
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # pyright: ignore[reportPrivateUsage]
_FATAL = KafkaError._FATAL  # pyright: ignore[reportPrivateUsage]  # an earlier error, which is not repeated
_FENCED_TEXTS = tuple(KafkaError(code).str() for code in _FENCED)
_RIVAL = "another process runs under this instance id (DRIFTLOOP_INSTANCE_ID): give each its own"
_PAUSE_S = 0.05
_CLOSE_S = 1.0

GroupMetadata = Any  # librdkafka's, opaque


class Aborted(Exception):
    """The transaction was aborted: nothing of it is on the log, and memory is ahead of the log.

    ``unknown``: its coordinator knew of no such transaction. If memory goes on from what it held before, hold
    that against the group's offsets first.
    """

    def __init__(self, reason: str, *, unknown: bool = False) -> None:
        super().__init__(reason)
        self.unknown = unknown


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a transaction has read: the next offsets of its inputs.

    ``group``: the group's metadata as of the fetch (or assignment), so that a member that lost the partitions
    since cannot commit.
    """

    offsets: list[TopicPartition]
    group: GroupMetadata


def unobserved(_step: str) -> None:
    pass


@contextmanager
def _own_errors() -> Generator[None]:
    """Raise the KafkaException that a SystemError hides.

    confluent-kafka notes a fatal error and may call back once more, with a line of the log, before it raises
    it. Python then refuses the callback's result, because an exception is on its way already.
    """
    try:
        yield
    except SystemError as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, KafkaException):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


class Transactions:
    """A transactional producer, for one thread. The id is the instance's, so a predecessor is fenced."""

    def __init__(
        self,
        connection: Connection,
        transactional_id: str,
        *,
        call_s: float = 10.0,
        timeout_s: float = 60.0,
        rival: str = _RIVAL,
        **settings: ConfigValue,
    ) -> None:
        """``call_s``: for one call, which nothing interrupts; ``timeout_s``: for all its retries.

        ``rival``: who else may have taken the id and what to do then, for error messages.
        """
        self._call_s, self._timeout_s, self._rival = call_s, timeout_s, rival
        self._config = connection.transactional(
            transactional_id, message_max_bytes=MAX_MESSAGE_BYTES, **settings
        )
        self._doubt = Doubt(self._config)
        self._producer = Producer(watched(self._config), logger=self._doubt)
        self._commit_sent = False  # of the transaction that is open

    def start(self) -> None:
        """Fence a predecessor and wait until what it left open has ended. Raises BrokerError."""
        try:
            self._retry("init_transactions", lambda: self._producer.init_transactions(self._call_s))
        except KafkaException as error:
            raise self._finished("transactions cannot begin", error.args[0]) from error
        self.tend()
        self._doubt.raised = False  # what is late of an older producer is refused from now on

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises BrokerError when it has none or nobody answers."""
        return len(topic_partitions(self._producer, topic, self._call_s))

    def run(
        self,
        write: Callable[[], None],
        consumed: Consumed | None = None,
        *,
        observe: Callable[[str], None] = unobserved,
    ) -> None:
        """Commit what ``write`` sends together with what was consumed.

        ``observe`` receives the name of each step once it is done. Raises Aborted when all must be done
        again, BrokerError when the process must end.
        """
        self._prepare()
        producer = self._producer
        try:
            with _own_errors():
                producer.begin_transaction()
                write()
                observe("produced")
                if consumed is not None:
                    offsets, group = consumed.offsets, consumed.group
                    self._retry(
                        "send_offsets_to_transaction",
                        lambda: producer.send_offsets_to_transaction(offsets, group, self._call_s),
                    )
                    observe("offsets sent")
                self._retry("commit_transaction", self._commit)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.fatal() or not reason.txn_requires_abort():
                raise self._finished("the transaction failed", reason) from error
            raise Aborted(str(reason), unknown=not self._abort()) from error
        self._doubt.end()

    def rehearse(self, write: Callable[[], None]) -> None:
        """Do what ``write`` does, then abort it: brokers append the records, and no reader sees them."""
        self._prepare()
        try:
            with _own_errors():
                self._producer.begin_transaction()
                write()
                self.flush()
        except KafkaException as error:
            raise self._finished("the transaction failed", error.args[0]) from error
        self._abort()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: str | bytes | None = None,
        partition: int = -1,
        headers: list[tuple[str, str | bytes | None]] | None = None,
        on_delivery: Callable[[KafkaError | None, Message], None] | None = None,
    ) -> None:
        """Send one record; within ``write`` only. ``partition`` -1: the one of its key."""
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=headers, on_delivery=on_delivery)
                return
            except BufferError:
                self._producer.poll(0.1)  # the queue is full: wait until some of it was delivered

    def send_all(self, topic: str, partition: int, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Send many records, each its key and value, to one partition; within ``write`` only."""
        produce = self._producer.produce
        for key, value in records:
            try:
                produce(topic, value, key, partition)
            except BufferError:
                self.send(topic, value, key, partition)

    def flush(self) -> None:
        """Wait until everything sent was delivered, or has failed."""
        self._producer.flush(self._call_s)

    def tend(self) -> None:
        """Take in what librdkafka has logged. Raises BrokerError after a fatal error.

        Lines wait in memory until then: a hundred a minute of a producer at rest, thousands while its broker
        is away. So a role that lives long calls this about once a second, also while it writes nothing.
        """
        try:
            with _own_errors():
                self._producer.poll(0)
        except KafkaException as error:
            raise self._finished("the producer was ended", error.args[0]) from error

    def close(self) -> None:
        """End what is open; nothing of it is visible. Waits for one second at most."""
        self._producer.purge()
        # Most often nothing is open; else a successor or the broker ends it.
        with suppress(KafkaException), _own_errors():
            self._producer.poll(0)
            self._producer.abort_transaction(_CLOSE_S)
        del self._producer  # its own ``close`` would wait for a broker for as long as none answers

    def _commit(self) -> None:
        self.flush()
        self._commit_sent = True
        self._producer.commit_transaction(self._call_s)

    def _prepare(self) -> None:
        self._replace_in_doubt()
        self._commit_sent = False
        self._doubt.begin()

    def _replace_in_doubt(self) -> None:
        """Begin with a new producer if a request of this one may still be under way. Raises BrokerError."""
        self.tend()
        if self._doubt.raised:
            log.info("a request may still be under way: the next transaction begins with a new producer")
            self._replace()

    def _replace(self) -> None:
        self._producer.purge()
        self._doubt = Doubt(self._config)
        self._producer = Producer(watched(self._config), logger=self._doubt)
        self.start()

    def _abort(self) -> bool:
        """End the transaction; return whether its coordinator knew of it.

        If nobody answers, the next producer's start ends it.
        """
        self._doubt.raised = True
        try:
            with _own_errors():
                self._retry("abort_transaction", lambda: self._producer.abort_transaction(self._call_s))
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() == KafkaError.INVALID_TXN_STATE and not self._commit_sent:
                # The coordinator died before it noted the first partition; a rival would have fenced us. Had
                # a commit been sent, that could be what ended the transaction. The error is fatal to the
                # producer, and nothing is open that another one would have to end.
                log.warning("the transaction is unknown to its coordinator; a new producer goes on")
                self._replace()
                return False
            if reason.fatal() or reason.code() in (*_FENCED, _FATAL):
                raise self._finished("the transaction could not be aborted", reason) from error
            log.warning("the transaction could not be aborted: %s; a new producer ends it", reason)
        else:
            self._doubt.end()
        return True

    def _retry(self, name: str, call: Callable[[], None]) -> None:
        def retriable(reason: KafkaError) -> bool:
            if reason.retriable():
                self._doubt.raised = True
                log.warning("%s is tried again: %s", name, reason)
            return reason.retriable()

        retry(call, timeout_s=self._timeout_s, pause_s=_PAUSE_S, retriable=retriable)

    def _finished(self, what: str, reason: KafkaError) -> BrokerError:
        with suppress(KafkaException), _own_errors():
            self._producer.poll(0)  # what an earlier error was may wait to be logged
        why = self._doubt.fatal or str(reason) if reason.code() == _FATAL else str(reason)
        if reason.code() in _FENCED or any(text in why for text in _FENCED_TEXTS):
            why = self._why_fenced()
        return BrokerError(f"{what}: {why}")

    def _why_fenced(self) -> str:
        """Say what may have raised the epoch. Kafka's answer is the same in all cases."""
        open_s = self._doubt.open_s()
        opened = "" if open_s is None else f", {open_s:.1f} s after the transaction began"
        timeout_s = int(self._config["transaction.timeout.ms"]) / 1000
        return (
            f"Kafka has fenced this producer{opened}. Either {self._rival}. Or there is no other, and this "
            f"one or its network stood still for longer than {timeout_s:g} s (transaction.timeout.ms), or a "
            "request of its start came late: start it again, and it goes on where its last commit left it"
        )
