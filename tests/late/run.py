"""Trials of one kind: a deployment, its role behind a late network, and one late request after another."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from driftloop.infra.cluster.topics import apply_topics
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader

from tests.late.kinds import Kind
from tests.late.lateness import Lateness
from tests.late.role_process import RestartedRole
from tests.late.work import INSTANCE, Commanding, Damage, Joining, Replaying, Work
from tests.support.kafka.late_network import LateNetwork

WORKS: dict[str, type[Work]] = {"join": Joining, "train": Commanding, "dlq": Replaying}
_BURST = {"idle": 1, "small": 1, "backlog": 1_000}
_PAUSE_S = {"idle": 0.02, "small": 0.015, "backlog": 0.1}
_DEAD_LETTERS = 8
_BEHIND = 3_000  # so far the role may be behind
_LAND_S = 60.0
_DONE_S = 60.0


@dataclass(slots=True)
class KindResult:
    """What came of the trials of one kind. ``refused``: late requests that the broker did not accept."""

    kind: Kind
    asked: int
    landed: int = 0
    missed: int = 0
    refused: int = 0
    exits: int = 0
    seconds: float = 0.0
    stuck: bool = False
    damage: Damage = field(default_factory=Damage)

    @property
    def damaged_trials(self) -> int:
        return len({name.split("-")[0] for name in self.damage.names})

    @property
    def clean(self) -> bool:
        wrong = self.damage.names or self.stuck
        return not wrong and self.landed == self.asked  # nothing late, nothing tried


class Trials:
    """The trials of one kind, one after the other, on topics of their own.

    ``python``: of the environment whose driftloop is tried.
    """

    def __init__(
        self, broker: str, network: LateNetwork, kind: Kind, folder: Path, python: Path, seed: int
    ) -> None:
        self._network, self._kind = network, kind
        self._draw = random.Random(f"{seed} {kind.name}")
        prefix = f"late{uuid.uuid4().hex[:6]}."
        self._direct = Connection(broker, prefix)
        apply_topics(self._direct, data_partitions=1, model_partitions=1)
        self._work = WORKS[kind.role](self._direct)
        self.transactional_id = prefix + self._work.transactional_id
        self.role = RestartedRole(
            python,
            self._work.arguments,
            {
                "DRIFTLOOP_BOOTSTRAP_SERVERS": network.address,
                "DRIFTLOOP_TOPIC_PREFIX": prefix,
                "DRIFTLOOP_STATE_DIR": str(folder / prefix),
                "DRIFTLOOP_INSTANCE_ID": INSTANCE,
                "DRIFTLOOP_KAFKA__RECONNECT_BACKOFF_MAX_MS": "150",
            },
            folder / f"{kind.name.replace(', ', '-').replace(' ', '-')}.log",
        )
        self._tail = LogReader(self._direct, (self._work.output,))
        self._given: list[str] = []
        self._waiting: set[str] = set()

    def run(self, trials: int) -> KindResult:
        """As many late requests as asked for, then what became of everything that was given."""
        result, begun = KindResult(self._kind, trials), time.monotonic()
        with closing(self._tail), ExitStack() as stack:
            stack.callback(self.role.stop)
            while result.landed < trials and result.missed <= trials + 2:
                number = result.landed + result.missed
                if not self.is_ready(number):
                    result.stuck = True
                    break
                self._trial(number, result)
            result.stuck |= not self._all_done()
        result.exits = self.role.exits
        result.damage = self._work.damage(self._given)
        result.seconds = time.monotonic() - begun
        return result

    def _trial(self, number: int, result: KindResult) -> None:
        kind, serves = self._kind, self._work.serves
        late = Lateness(self._network, self.transactional_id, kind, self._draw, self.role.kill)
        until = time.monotonic() + _LAND_S
        step = 0
        while not late.landed.is_set() and time.monotonic() < until:
            if step == 0 or (serves and kind.load != "idle" and len(self._waiting) < _BEHIND):
                size = _BURST[kind.load] if serves else _DEAD_LETTERS
                self.give(f"{number}-{step}-{each}" for each in range(size))
                step += 1
            self._look(_PAUSE_S[kind.load])
            if not serves and step and not self._waiting:
                break  # it has done all, and the moment did not come
        result.landed += late.landed.is_set()
        result.missed += not late.landed.is_set()
        result.refused += late.refused
        late.end()

    def is_ready(self, number: int) -> bool:
        """Whether the role does what it is given, after what the last trial left."""
        if not self._work.serves:
            return self._all_done()
        probe = f"{number}-probe"
        self.give([probe])
        return self._seen(lambda: probe not in self._waiting)

    def _all_done(self) -> bool:
        return self._seen(lambda: not self._waiting)

    def _seen(self, condition: Callable[[], bool]) -> bool:
        until = time.monotonic() + _DONE_S
        while not condition() and time.monotonic() < until:
            self._look(0.05)
        return condition()

    def give(self, names: Iterable[str]) -> None:
        """Give the role these inputs to work on."""
        given = list(names)
        self._given += given
        self._waiting.update(given)
        self._work.give(given)

    def _look(self, seconds: float) -> None:
        """See what has come out, and start the role if it has ended."""
        for record in self._tail.poll(seconds):
            self._waiting.discard(self._work.named(record))
        self.role.tend(wanted=self._work.serves or bool(self._waiting))
