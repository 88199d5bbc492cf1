"""A producer with librdkafka's ways: it repeats what was lost by itself, and classes errors as that does.

From its transaction manager: EndTxn is repeated for as long as it takes, also after its call has run out of
time; the next call goes on with it. Sending offsets repeats every half second and, out of time, requires an
abort.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import TopicPartition

from tests.simulation.broker.group import CommittedOffset, GroupMetadata
from tests.simulation.broker.log import OK
from tests.simulation.client.errors import INCONSISTENT, TIMED_OUT, timed_out, wrong_state
from tests.simulation.client.sending import FATAL, SendingProducer
from tests.simulation.network import Link

_OFFSETS_BACKOFF_S = 0.5
_CALL_S = 60.0  # what a call without a limit waits for


class Producer(SendingProducer):
    """What the product sees as confluent-kafka's Producer."""

    def init_transactions(self, timeout: float = -1) -> None:
        self._check_fatal()
        if self._operation is None:
            init, name = self.sim.cluster.transactions.init, self._name
            self._operation = self._ask(self._coordinator, "InitProducerId", lambda: init(name))
        self._id = self._await("init_transactions", timeout)
        self._sequences.clear()

    def begin_transaction(self) -> None:
        self._check_fatal()
        if self._id is None or self._open:
            raise wrong_state("not ready")
        self._open, self._error, self._failed, self._registered = True, None, 0, False
        self._added.clear()
        self._adding = None
        self._transaction = self.sim.new_transaction()

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: GroupMetadata, timeout: float = -1
    ) -> None:
        self._check()
        until = self.world.now + (timeout if timeout >= 0 else _CALL_S)
        cluster, name, producer, transaction = self.sim.cluster, self._name, self._producer, self._transaction
        offsets = {
            (one.topic, one.partition): CommittedOffset(one.offset, getattr(one, "metadata", None) or "")
            for one in positions
        }
        self._call(
            self._coordinator,
            "AddOffsetsToTxn",
            lambda: cluster.transactions.add(name, producer, places=set(), groups={group_metadata.group}),
            until,
        )
        self._call(
            self._leader,
            "TxnOffsetCommit",
            lambda: cluster.commit_offsets(name, producer, group_metadata, offsets, transaction),
            until,
        )

    def _call(self, link: Link, api: str, handle: Callable[[], Any], until: float) -> None:
        """Wait for the answer to a request that is not sent again after that."""
        operation = self._ask(link, api, handle, backoff_s=_OFFSETS_BACKOFF_S)
        done = self.world.wait(lambda: operation.answer is not None, until - self.world.now)
        operation.dropped = True
        self._registered = True
        if not done:
            self._abortable(TIMED_OUT, f"{api} timed out")
        elif operation.answer in FATAL:
            self._set_fatal(operation.answer)
        elif operation.answer != OK:
            self._abortable(operation.answer, f"{api} failed")
        self._check()

    def commit_transaction(self, timeout: float = -1) -> None:
        self._check()
        if self._operation is None:
            self.flush(timeout)
            self._check()
            if self._queued or self._sending:
                raise timed_out("flush")
            if self._failed:
                self._abortable(INCONSISTENT, "messages failed delivery")
                self._check()
            if not self._registered:
                self._open = False
                return
            self._end(commit=True)
        self._await("commit_transaction", timeout)
        self._open = False
        self.sim.acknowledged.add(self._transaction)

    def abort_transaction(self, timeout: float = -1) -> None:
        self._check_fatal()
        if not self._open:
            raise wrong_state("no transaction is open")
        self.purge()
        self.sim.given_up.add(self._transaction)
        if self._registered:
            if self._operation is None:
                self._end(commit=False)
            self._await("abort_transaction", timeout)
        self._open, self._error = False, None
        if self._bump:
            self._bump, self._id = False, None
            self.init_transactions(timeout)

    def _end(self, *, commit: bool) -> None:
        end, name, producer = self.sim.cluster.transactions.end, self._name, self._producer
        self._operation = self._ask(
            self._coordinator, f"EndTxn {commit}", lambda: end(name, producer, commit=commit)
        )

    def _await(self, call: str, timeout: float) -> Any:
        """Return the answer to the operation, which goes on by itself if the call runs out of time."""
        operation = self._operation
        assert operation is not None
        if not self.world.wait(lambda: operation.answer is not None, timeout if timeout >= 0 else _CALL_S):
            raise timed_out(call)
        self._operation = None
        if operation.answer in FATAL:
            self._set_fatal(operation.answer)
            self._check_fatal()
        return operation.answer
