"""Waiting until the loop has taken in all there is: nothing left to read, nothing under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import cast

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from driftloop.infra.demo.loop_view import TOPICS, LoopView
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.reader import LogReader

from tests.soak.traffic.http import serving
from tests.soak.traffic.story import MODELS
from tests.support.monitor.progress import MonitorProgress

_TRAILING_MARKERS = 4  # a transaction's markers take offsets that no reader consumes
CLOCK = "clock-"  # prediction_ids of the records that only move the time on


class NotQuiet(Exception):
    """The loop did not come to rest in time."""


def wait_for(condition: Callable[[], bool], deadline_s: float, what: str, tick: Callable[[], None]) -> float:
    """Seconds it took. ``tick`` is called while waiting."""
    begin = time.monotonic()
    while not condition():
        tick()
        if time.monotonic() - begin > deadline_s:
            raise NotQuiet(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - begin


def pause(seconds: float, tick: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        tick()
        time.sleep(0.05)


class Inputs:
    """How far the joiners' group is behind on its inputs."""

    def __init__(self, connection: Connection, partitions: int) -> None:
        self._consumer = Consumer(connection.consumer("join"))
        self._places = [
            TopicPartition(connection.topic(topic), number)
            for topic in (PREDICTIONS, LABELS)
            for number in range(partitions)
        ]

    def behind(self) -> int:
        try:
            committed = self._consumer.committed(self._places, timeout=10)
            return sum(self._left(place) for place in committed)
        except KafkaException:
            return 1 << 60  # nobody could be asked: not known to be done

    def standing(self) -> str:
        """Per partition: what the group has committed, and where the topic begins and ends."""
        try:
            return ", ".join(
                f"{place.topic}[{place.partition}] {place.offset} of {self._bounds(place)}"
                for place in self._consumer.committed(self._places, timeout=10)
            )
        except KafkaException as error:
            return f"nobody answers: {error.args[0]}"

    def passed(self, records: Mapping[tuple[str, int], int]) -> bool:
        """Whether each of these records (topic and partition → offset) is read and committed."""
        try:
            committed = self._consumer.committed(self._places, timeout=10)
        except KafkaException:
            return False
        reached = {(place.topic, place.partition): place.offset for place in committed}
        return all(reached[where] > offset for where, offset in records.items())

    def _left(self, place: TopicPartition) -> int:
        bounds = self._bounds(place)
        left = bounds[1] - max(place.offset, bounds[0])
        return left if left > _TRAILING_MARKERS else 0

    def _bounds(self, place: TopicPartition) -> tuple[int, int]:
        return cast("tuple[int, int]", self._consumer.get_watermark_offsets(place, timeout=10))

    def close(self) -> None:
        self._consumer.close()


def move_clocks(
    connection: Connection, partitions: int, round_: int, model: str
) -> dict[tuple[str, int], int]:
    """One prediction with its label on every partition, so that what is over is noticed everywhere.

    Gives where they are: topic and partition → offset.
    """
    places: dict[tuple[str, int], int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            places[message.topic() or "", message.partition() or 0] = message.offset() or 0

    producer = Producer({**connection.producer(), "on_delivery": delivered})
    for number in range(partitions):
        name = next(
            name
            for i in range(10_000)
            if partition_of(name := f"{CLOCK}{round_}-{number}-{i}", partitions) == number
        )
        now_ms = int(time.time() * 1000)
        said = {"prediction_id": name, "model": model, "version": 1, "ts": now_ms}
        said |= {"features": {}, "prediction": "late"}
        producer.produce(connection.topic(PREDICTIONS), orjson.dumps(said), name)
        truth = {"prediction_id": name, "ts": now_ms, "label": "late"}
        producer.produce(connection.topic(LABELS), orjson.dumps(truth), name)
    if producer.flush(60) or len(places) != 2 * partitions:
        raise NotQuiet("the brokers do not acknowledge")
    return places


def monitor_is_done(connection: Connection) -> bool:
    try:
        with closing(MonitorProgress(connection)) as progress:
            return progress.behind() <= _TRAILING_MARKERS
    except BrokerError:
        return False


class Decisions:
    """What triggers, runs and updates say, as they come."""

    def __init__(self, connection: Connection) -> None:
        self._reader = LogReader(connection, TOPICS)
        self.view = LoopView(connection.prefix)

    def at_rest(self) -> bool:
        """Whether every trigger has its run and none is being trained."""
        for record in self._reader.poll(0.2, max_records=10_000):
            self.view.apply(record)
        busy = [run for run in self.view.open_runs() if run.status != "waiting"]
        return self._reader.caught_up and not busy and not self.view.unanswered_triggers()

    def newest(self) -> dict[str, tuple[int, int]]:
        """Model → (generation, champion's version)."""
        newest: dict[str, tuple[int, int]] = {}
        for stamped in self.view.updates:
            update = stamped.event
            champion = 0 if update.plan.champion is None else update.plan.champion.version
            newest[update.model] = max(newest.get(update.model, (0, 0)), (update.generation, champion))
        return newest

    def diverged(self, ports: list[int]) -> list[str]:
        """Servers that do not serve what the log says."""
        wanted = self.newest()
        return [
            f"server {index} {model}: serves {got}, the log says {wanted[model]}"
            for index, port in enumerate(ports)
            for model in MODELS
            if model in wanted and (got := serving(port, model)) != wanted[model]
        ]

    def close(self) -> None:
        self._reader.close()
