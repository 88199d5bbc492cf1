"""Holding the stream: the driver goes on when the loop has decided all it can about what it was given.

So the demo's results depend on the data and not on the machine: a slower one takes longer, no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ...schemas.errors import BrokerError, Error
from ...schemas.runs import TrainingRun
from ...schemas.topics import LABELS, OUTCOMES, PREDICTIONS, VITALS, Topic
from ...streams.kafka.connection import Connection
from ...streams.kafka.offsets import LogOffsets
from ...streams.kafka.reader import LogReader
from .loop_view import TOPICS, LoopView

_ASK_S = 2.0
_PAUSE_S = 0.01
MARKER = 1  # a transaction's marker takes an offset that no reader ever consumes


class LoopStuck(Error):
    """The loop did not catch up with the stream."""


class Barrier:
    """Waits for joiner, monitor, trainer and servers, in that order, until all of them are idle."""

    def __init__(
        self,
        connection: Connection,
        view: LoopView,
        *,
        servers: int,
        idle: Callable[[], None],
        deadline_s: float = 300.0,
    ) -> None:
        """``idle`` is called often while waiting: it redraws the picture and watches the processes."""
        self._connection = connection
        self._view = view
        self._servers = servers
        self._idle = idle
        self._deadline_s = deadline_s
        self.waited_s: dict[str, float] = {}
        self._refusal = ""
        self._offsets = LogOffsets(connection, timeout_s=_ASK_S)
        self._decisions = LogReader(connection, TOPICS)
        self._groups = {name: Consumer(connection.consumer(name)) for name in ("join", "monitor")}
        self._partitions = {
            topic: self._offsets.partitions(topic) for topic in (PREDICTIONS, LABELS, OUTCOMES, VITALS)
        }

    def close(self) -> None:
        self._decisions.close()
        for group in self._groups.values():
            group.close()

    def refresh(self) -> None:
        """Take in the decisions that have come."""
        for record in self._decisions.poll(0.0):
            self._view.apply(record)

    def wait(self, *, predictions: int, labels: int) -> None:
        """Return once the loop has read so many predictions and labels, and has decided on them.

        Raises LoopStuck past the deadline, naming what did not move.
        """
        deadline = time.monotonic() + self._deadline_s
        self._until(lambda: self._sent(predictions, labels), deadline, "the topics")
        self._until(self._joined, deadline, "the joiner")
        while True:
            self._until(self._monitored, deadline, "the monitor")
            self._until(self._decided, deadline, "trainer and servers")
            if self._holds(self._monitored):  # a run's end reaches the monitor, which may decide again
                self.refresh()
                if self._holds(self._decided):
                    return

    def _until(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        started = time.monotonic()
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise LoopStuck(
                    f"waited {self._deadline_s:g} s for {what}; see its log in the demo's folder, "
                    f"or `driftloop status` ({self._describe()})"
                )
            self._idle()
            time.sleep(_PAUSE_S)
        self.waited_s[what] = self.waited_s.get(what, 0.0) + time.monotonic() - started

    def _holds(self, condition: Callable[[], bool]) -> bool:
        """Check it; False also while Kafka has no answer: a leader moves, or a dead joiner's transaction
        keeps offsets open until ``idle`` has restarted it."""
        try:
            self._refusal = ""
            return condition()
        except (KafkaException, BrokerError) as error:
            self._refusal = f", Kafka: {error.args[0]}"
            return False

    def _describe(self) -> str:
        runs = ", ".join(f"{run.run_id} {run.status}" for run in self._view.open_runs()) or "no open runs"
        triggers = self._view.unanswered_triggers()
        return f"generation {self._view.generation}, {runs}, triggers {triggers}{self._refusal}"

    def _sent(self, predictions: int, labels: int) -> bool:
        return (
            sum(self._ends(PREDICTIONS).values()) >= predictions
            and sum(self._ends(LABELS).values()) >= labels
        )

    def _joined(self) -> bool:
        return self._reached("join", PREDICTIONS, slack=0) and self._reached("join", LABELS, slack=0)

    def _monitored(self) -> bool:
        return self._reached("monitor", VITALS, slack=MARKER)

    def _decided(self) -> bool:
        self.refresh()
        if self._view.unanswered_triggers() or self._view.behind(self._servers):
            return False
        runs = self._view.open_runs()
        if any(run.status != "waiting" for run in runs):
            return False
        return not runs or self._waits_for_more(runs)

    def _waits_for_more(self, runs: list[TrainingRun]) -> bool:
        """Whether every waiting run has looked at all outcomes there are and still lacks labels."""
        ends = self._ends(OUTCOMES)
        for run in runs:
            progress = run.progress
            if progress is None or progress.labels >= progress.needed:
                return False
            if any(progress.outcome_offsets.get(str(p), 0) < end - MARKER for p, end in ends.items()):
                return False
        return True

    def _reached(self, group: str, topic: Topic, *, slack: int) -> bool:
        ends = self._ends(topic)
        wanted = [TopicPartition(self._connection.topic(topic), p) for p in ends]
        try:
            committed = self._groups[group].committed(wanted, timeout=_ASK_S)
        except KafkaException:
            return False  # a transaction holds them open; its owner may need ``idle`` to be restarted
        return all(max(tp.offset, 0) >= ends[tp.partition] - slack for tp in committed)

    def _ends(self, topic: Topic) -> dict[int, int]:
        return self._offsets.ends(topic, self._partitions[topic])
