"""The group coordinator: static members, generations, rebalances, and the offsets of the group.

Classic protocol, range assignment, eager: everybody gives up what it has before anybody gets anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from confluent_kafka import OFFSET_INVALID, KafkaError

from tests.simulation.broker.log import OK, Fate
from tests.simulation.broker.transactions import Place
from tests.simulation.clock import VirtualWorld

_SESSION_S = 6.0
_HEARTBEAT_S = 2.0


class GroupMetadata(NamedTuple):
    """What a member knows of its membership, as transactions send it."""

    group: str
    generation: int
    member: int
    instance: str


class CommittedOffset(NamedTuple):
    offset: int
    metadata: str = ""


NEVER = CommittedOffset(OFFSET_INVALID)


class GroupEvent(NamedTuple):
    """What a coordinator tells a member: ``assign``, ``revoke``, ``lost`` (its session) or ``fenced``."""

    kind: str
    generation: int = 0
    places: Sequence[Place] = ()


class Member(Protocol):
    """A consumer, as its coordinator sees it."""

    instance: str
    member: int
    topics: list[str]

    def beats(self) -> bool: ...
    def receive(self, event: GroupEvent) -> None: ...


@dataclass
class PendingOffsets:
    """Offsets of an open transaction, and the client's own numbers of the transactions they came with."""

    offsets: dict[Place, CommittedOffset] = field(default_factory=dict[Place, CommittedOffset])
    transactions: list[int] = field(default_factory=list[int])


class Group:
    def __init__(self, world: VirtualWorld, name: str, partitions: dict[str, int]) -> None:
        self._world, self.name, self._partitions = world, name, partitions
        self.generation = 0
        self.offsets: dict[Place, CommittedOffset] = {}
        self.pending: dict[int, PendingOffsets] = {}
        self.went_back: list[str] = []
        self.fates: list[Fate] = []
        self._members: dict[str, Member] = {}
        self._seen: dict[str, float] = {}
        self._assigned: dict[str, list[Place]] = {}
        self._joined: set[str] | None = None  # while a rebalance is under way
        self._made = 0
        world.after(1.0, self._tick)

    # Members

    def join(self, member: Member) -> None:
        self._made += 1
        name, known = member.instance, self._members.get(member.instance)
        self._seen[name] = self._world.now
        if known is not member:
            member.member = self._made
            self._members[name] = member
            if known is not None:
                known.receive(GroupEvent("fenced"))
                if self._joined is None:  # a static member continues with what it had
                    member.receive(GroupEvent("assign", self.generation, self._assigned.get(name, [])))
                    return
        if self._joined is None:
            self._rebalance()
        assert self._joined is not None
        self._joined.add(name)
        self._complete()

    def check(self, given: GroupMetadata) -> int:
        """Whether a member may still commit; a commit without a membership is always accepted."""
        if given.generation < 0 and not given.instance:
            return OK
        member = self._members.get(given.instance)
        if member is None:
            return KafkaError.UNKNOWN_MEMBER_ID
        if member.member != given.member:
            return KafkaError.FENCED_INSTANCE_ID
        return OK if given.generation == self.generation else KafkaError.ILLEGAL_GENERATION

    def _rebalance(self) -> None:
        self._joined = set()
        for name, member in self._members.items():
            wait_s = self._world.rng.uniform(0.0, _HEARTBEAT_S)
            self._world.after(wait_s, lambda member=member, name=name: self._revoke(name, member))

    def _revoke(self, name: str, member: Member) -> None:
        if self._joined is not None and name not in self._joined and self._members.get(name) is member:
            if member.beats():
                member.receive(GroupEvent("revoke"))
            else:
                self._world.after(0.5, lambda: self._revoke(name, member))

    def _complete(self) -> None:
        if self._joined is None or not self._members or self._joined != self._members.keys():
            return
        self._joined = None
        self.generation += 1
        names = sorted(self._members)
        self._assigned = {name: [] for name in names}
        for topic, count in sorted(self._partitions.items()):
            for number in range(count):
                if any(topic in member.topics for member in self._members.values()):
                    self._assigned[names[number * len(names) // count]].append((topic, number))
        self._world.trace(f"group {self.name} generation {self.generation} {self._assigned}")
        for name, member in self._members.items():
            member.receive(GroupEvent("assign", self.generation, self._assigned[name]))

    def _tick(self) -> None:
        now = self._world.now
        for name, member in list(self._members.items()):
            if member.beats():
                self._seen[name] = now
            elif now - self._seen[name] > _SESSION_S:
                self._world.trace(f"group {self.name} lost {name}")
                del self._members[name], self._seen[name]
                member.receive(GroupEvent("lost"))
                if self._joined is None:
                    self._rebalance()
                else:
                    self._joined.discard(name)
                self._complete()
        self._world.after(1.0, self._tick)

    # Offsets

    def commit_open(
        self, given: GroupMetadata, producer: int, offsets: dict[Place, CommittedOffset], transaction: int
    ) -> int:
        """Keep offsets until their transaction ends; return an error."""
        error = self.check(given)
        if error == OK:
            pending = self.pending.setdefault(producer, PendingOffsets())
            pending.offsets.update(offsets)
            pending.transactions.append(transaction)
        return error

    def mark(self, producer: int, *, commit: bool) -> None:
        pending = self.pending.pop(producer, PendingOffsets())
        self.fates += [Fate(transaction, commit) for transaction in pending.transactions]
        if commit:
            for place, committed in pending.offsets.items():
                before = self.offsets.get(place)
                if before is not None and committed.offset < before.offset:
                    self.went_back.append(f"{place} from {before.offset} to {committed.offset}")
                self.offsets[place] = committed

    def unstable(self, place: Place) -> bool:
        return any(place in pending.offsets for pending in self.pending.values())
