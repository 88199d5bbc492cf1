"""A consumer of the simulated cluster, in a group or with partitions of its own, read_committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition

from tests.simulation.broker.group import NEVER, GroupEvent, GroupMetadata
from tests.simulation.broker.log import Entry
from tests.simulation.broker.transactions import Place
from tests.simulation.client.errors import PARTITION_EOF, TIMED_OUT, wrong_state
from tests.simulation.client.metadata import ClusterMetadata
from tests.simulation.client.simulated import Simulated

_TAIL = -2000  # librdkafka's RD_KAFKA_OFFSET_TAIL(n) is -2000 - n; Python has no name for it

Callback = Callable[[Any, list[TopicPartition]], None]


class Consumer(Simulated):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.instance = str(config.get("group.instance.id", ""))
        self.member = 0
        self.topics: list[str] = []
        self._group = str(config["group.id"])
        self._generation = -1
        self._positions: dict[Place, int] = {}
        self._ended: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._stalled: dict[Place, float] = {}
        self._paused: set[Place] = set()
        self._events: list[GroupEvent] = []
        self._on_assign: Callback | None = None
        self._on_revoke: Callback | None = None
        self._owns = False
        self._closed = False
        self.sim.cluster.readers.append(self._moved)

    # The group

    def subscribe(self, topics: list[str], *, on_assign: Callback, on_revoke: Callback) -> None:
        self.topics, self._on_assign, self._on_revoke = topics, on_assign, on_revoke
        self._join()

    def _join(self) -> None:
        group = self.sim.cluster.group(self._group)
        self.world.after(self.sim.network.latency(), lambda: group.join(self) if self.process.alive else None)

    def beats(self) -> bool:
        return self.process.alive and not self._closed and self.process.frozen_until <= self.world.now

    def receive(self, event: GroupEvent) -> None:
        """Serve the event within ``consume``, once it is here."""

        def arrive() -> None:
            self._events.append(event)
            self.world.wake(self.process)

        self.world.after(self.sim.network.latency(), arrive)

    def _serve(self) -> list[Message]:
        while self._events:
            kind, generation, places = self._events.pop(0)
            if kind == "fenced":
                error = KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced")
                return [Message(error=error)]
            if kind != "assign":
                self._give_up()
                self._join()
                continue
            if self._owns:
                self._give_up()
            self._owns, self._generation = True, generation
            assert self._on_assign is not None
            self._on_assign(self, [TopicPartition(*place) for place in places])
        return []

    def _give_up(self) -> None:
        if self._owns:
            self._owns = False
            assert self._on_revoke is not None
            self._on_revoke(self, [TopicPartition(*place) for place in self._positions])
            self.unassign()

    def consumer_group_metadata(self) -> GroupMetadata:
        return GroupMetadata(self._group, self._generation, self.member, self.instance)

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        group, until = self.sim.cluster.group(self._group), self.world.now + timeout
        places = [(one.topic, one.partition) for one in partitions]
        while True:
            self.world.sleep(self.sim.network.latency() * 2)
            if not any(map(group.unstable, places)):
                break
            if self.world.now > until:
                raise KafkaException(KafkaError(TIMED_OUT, "unstable offsets"))
            self.world.sleep(0.05)
        return [TopicPartition(*place, *group.offsets.get(place, NEVER)) for place in places]

    # Records

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.unassign()
        for one in partitions:
            place, start = (one.topic, one.partition), one.offset
            if start <= _TAIL:
                start += self.sim.cluster.logs[place].last_stable_offset - _TAIL
            self._positions[place] = max(0, start)

    def unassign(self) -> None:
        self.world.check()
        self._positions.clear()
        self._ended.clear()

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.world.check()
        self._paused.update((one.topic, one.partition) for one in partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.world.check()
        self._paused.difference_update((one.topic, one.partition) for one in partitions)

    def seek(self, place: TopicPartition) -> None:
        self.world.check()
        where = place.topic, place.partition
        if where not in self._positions:
            raise wrong_state("not assigned")
        self._positions[where] = place.offset
        self._ended.pop(where, None)

    def poll(self, timeout: float = -1) -> Message | None:
        return next(iter(self.consume(1, timeout)), None)

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        world = self.world
        world.check()
        until = world.now + (timeout if timeout >= 0 else 1e9)
        if num_messages > 1 and timeout > 0 and not self._readable():
            world.wait(lambda: self._events, timeout)
        while True:
            found = self._serve() if self._events else []
            found += self._take(num_messages)
            if found or world.now >= until:
                return found
            world.wait(lambda: self._events or self._readable(), until - world.now)

    def get_watermark_offsets(
        self, place: TopicPartition, timeout: float = -1, cached: bool = False
    ) -> tuple[int, int]:
        where = place.topic, place.partition
        if cached:
            return 0, self._ends.get(where, OFFSET_INVALID)
        self.world.sleep(self.sim.network.latency() * 2)
        return 0, self.sim.cluster.logs[where].last_stable_offset

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:
        return self.sim.metadata(topic)

    def close(self) -> None:
        self.world.check()
        if self._owns:
            self._give_up()
        self._closed = True
        self.sim.cluster.readers.remove(self._moved)

    def _moved(self, place: Place) -> None:
        if place in self._positions and self.process.alive:
            rng = self.world.rng
            if self.instance and rng.random() < self.sim.stalls and self.world.now < self.sim.calm_at:
                self._stalled[place] = self.world.now + rng.choice((0.05, 0.3, 1.0, 3.0))
            latency = self.sim.network.latency()
            at = max(self.world.now + latency, self._stalled.get(place, 0.0))
            self.world.after(at - self.world.now + 1e-6, lambda: self.world.wake(self.process))

    def _places(self) -> list[Place]:
        now = self.world.now
        return [
            place
            for place, position in self._positions.items()
            if place not in self._paused
            and self._stalled.get(place, 0.0) <= now
            and self._ended.get(place, -1) < self.sim.cluster.logs[place].last_stable_offset
            and position <= self.sim.cluster.logs[place].last_stable_offset
        ]

    def _readable(self) -> bool:
        return bool(self._places())

    def _take(self, most: int) -> list[Message]:
        found: list[Message] = []
        places = self._places()
        if len(places) > 1 and self.instance:
            self.world.rng.shuffle(places)
        for place in places:
            log, position = self.sim.cluster.logs[place], self._positions[place]
            self._ends[place] = log.end
            end = log.last_stable_offset
            for entry in log.entries[position:end]:
                if len(found) >= most:
                    break
                position = entry.offset + 1
                if entry.visible:
                    found.append(_message(place, entry))
            self._positions[place] = position
            if position >= end and len(found) < most:
                self._ended[place] = end
                found.append(
                    Message(topic=place[0], partition=place[1], offset=end, error=KafkaError(PARTITION_EOF))
                )
        return found


def _message(place: Place, entry: Entry) -> Message:
    assert entry.sent is not None
    return Message(
        topic=place[0],
        partition=place[1],
        offset=entry.offset,
        key=entry.sent.key,
        value=entry.sent.value,
        headers=entry.sent.headers,
        timestamp=(2, entry.append_ms),
    )
