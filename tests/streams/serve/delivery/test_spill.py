"""An outage of Kafka: callers do not notice, events go to disk, and all of them arrive afterwards."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer
from driftloop.schemas.errors import SettingsError
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import PREDICTIONS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.delivery import spill as spilling
from driftloop.streams.serve.delivery.outbox import Dropped, Outbox
from driftloop.streams.serve.delivery.overflow import Overflow, QueuedEvent
from driftloop.streams.serve.delivery.spill import Spill

from tests.support.kafka.forwarding import forwarded
from tests.support.serve.bench import ServingBench
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until


def event(number: int, size: int = 10) -> QueuedEvent:
    return QueuedEvent("t", f"p{number}".encode(), b"x" * size)


def free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


def through(port: int, bench: ServingBench) -> Connection:
    return Connection(f"127.0.0.1:{port}", bench.connection.prefix, {"log_level": "0"})


def test_what_was_emitted_in_an_outage_arrives_in_order_and_no_caller_waited(
    bench: ServingBench, tmp_path: Path
) -> None:
    port, count = free_port(), 3000
    took: list[float] = []
    client = EventClient(through(port, bench), privacy={}, spill=Spill(tmp_path / "spill"))
    with Stopwatch() as watch:
        for number in range(count):
            started = time.perf_counter()
            client.prediction("m", 1, {"x": number}, 1.0, prediction_id=f"p{number}")
            took.append(time.perf_counter() - started)
            if number == count // 2:  # the outage was noticed: events are on disk, newer ones follow
                wait_until(lambda: client.stats.on_disk == count // 2 + 1)
    wait_until(lambda: client.stats.on_disk == count)
    took.sort()
    assert took[count // 2] < 0.001 * watch.slowness
    assert took[count * 99 // 100] < 0.02 * watch.slowness
    assert took[-1] < 1.0 * watch.slowness  # a machine may hold a thread back; Kafka may not
    with forwarded(port, bench.connection.bootstrap_servers):
        assert client.flush(60) == 0
        wait_until(lambda: client.stats.on_disk == 0)
        client.prediction("m", 1, {"x": 0}, 1.0, prediction_id="after")
        client.close()
    arrived = [(record.partition, (record.key or b"").decode()) for record in bench.read(PREDICTIONS)]
    assert len(arrived) == count + 1
    partitions = {partition for partition, _ in arrived}
    for partition in partitions:
        mine = [key for place, key in arrived if place == partition and key != "after"]
        assert mine == [
            f"p{n}" for n in range(count) if partition_of(f"p{n}".encode(), len(partitions)) == partition
        ]
    assert client.stats.dropped == 0
    assert list((tmp_path / "spill").glob("*.spill")) == []


def test_after_an_outage_steady_traffic_goes_straight_to_kafka_again(
    bench: ServingBench, tmp_path: Path
) -> None:
    port, stop = free_port(), threading.Event()
    client = EventClient(through(port, bench), privacy={}, spill=Spill(tmp_path / "spill"))

    def emit() -> None:
        number = 0
        while not stop.wait(0.002):
            client.prediction("m", 1, {"x": number}, 1.0, prediction_id=f"p{number}")
            number += 1

    traffic = threading.Thread(target=emit)
    traffic.start()
    try:
        wait_until(lambda: client.stats.on_disk > 100)
        with forwarded(port, bench.connection.bootstrap_servers):
            wait_until(lambda: not client.outbox._spilling, "events go straight to Kafka")
            stop.set()
            traffic.join()
            assert client.flush(60) == 0
            client.close()
    finally:
        stop.set()
        traffic.join()
    by_partition: dict[int, list[int]] = {}
    for record in bench.read(PREDICTIONS):
        by_partition.setdefault(record.partition, []).append(int((record.key or b"")[1:]))
    assert sorted(n for numbers in by_partition.values() for n in numbers) == list(
        range(sum(map(len, by_partition.values())))
    )
    assert all(numbers == sorted(numbers) for numbers in by_partition.values())


def test_what_is_on_disk_outlives_kill_9_and_arrives_after_the_restart(
    bench: ServingBench, tmp_path: Path
) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from driftloop.streams.kafka.connection import Connection\n"
        "from driftloop.streams.serve.client import EventClient\n"
        "from driftloop.streams.serve.delivery.spill import Spill\n"
        f"nowhere = Connection('127.0.0.1:{free_port()}', {bench.connection.prefix!r})\n"
        f"client = EventClient(nowhere, privacy={{}}, spill=Spill(Path({str(tmp_path / 'spill')!r})))\n"
        "for i in range(500): client.prediction('m', 1, {'x': i}, 1.0, prediction_id=f'p{i}')\n"
        "while client.stats.on_disk < 500: time.sleep(0.02)\n"
        "print('kept', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "kept\n"
        with pytest.raises(SettingsError, match="each process needs a folder of its own"):
            Spill(tmp_path / "spill")
        process.send_signal(signal.SIGKILL)
    with EventClient(bench.connection, privacy={}, spill=Spill(tmp_path / "spill")) as client:
        assert client.flush(60) == 0
    assert sorted(found.prediction_id for found in bench.predictions()) == sorted(f"p{i}" for i in range(500))


def test_a_client_that_is_closed_in_an_outage_keeps_its_events(bench: ServingBench, tmp_path: Path) -> None:
    client = EventClient(through(free_port(), bench), privacy={}, spill=Spill(tmp_path / "spill"))
    for number in range(100):
        client.prediction("m", 1, {"x": number}, 1.0, prediction_id=f"p{number}")
    with Stopwatch() as watch:
        client.close(0.2)
    assert watch.seconds < 4
    assert client.stats.dropped == 0
    with EventClient(bench.connection, privacy={}, spill=Spill(tmp_path / "spill")) as again:
        assert again.stats.waiting == 100
        assert again.flush(60) == 0
    assert len(bench.predictions()) == 100


class FullDisk(Spill):
    full = True

    def append(self, events: Sequence[QueuedEvent]) -> list[QueuedEvent]:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().append(events)


def test_a_full_disk_is_reported_and_events_stay_in_memory_within_bounds(
    bench: ServingBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, spill, drops = free_port(), FullDisk(tmp_path / "spill"), list[Dropped]()
    client = EventClient(
        through(port, bench), privacy={}, spill=spill, queue_events=100, on_drop=drops.append,
        overflow=Overflow(max_events=50),
    )  # fmt: skip
    for number in range(160):
        client.prediction("m", 1, {"x": number}, 1.0, prediction_id=f"p{number}")
    wait_until(lambda: client.stats.disk_errors > 0)
    assert "No space left on device" in caplog.text
    wait_until(lambda: len(drops) == 10)
    wait_until(lambda: client.stats.waiting == 150)
    with forwarded(port, bench.connection.bootstrap_servers):
        assert client.flush(60) == 0
        client.close()
    assert sorted(found.prediction_id for found in bench.predictions()) == sorted(f"p{i}" for i in range(150))


def test_at_its_limit_the_newest_or_the_oldest_are_dropped_as_set(tmp_path: Path) -> None:
    newest = Spill(tmp_path / "a", max_bytes=2000)
    dropped = newest.append([event(n, 380) for n in range(10)])
    assert [gone.key for gone in dropped] == [b"p%d" % n for n in range(5, 10)]
    oldest = Spill(tmp_path / "b", max_bytes=2000, when_full="oldest")
    gone: list[QueuedEvent] = []
    for n in range(10):
        gone += oldest.append([event(n, 380)])
        assert oldest.bytes <= 2000
    kept = oldest.oldest()
    assert kept is not None
    assert [one.key for one in (*gone, *kept.events)] == [b"p%d" % n for n in range(10)]
    assert len(gone) + oldest.events == 10


def test_events_dropped_for_others_are_reported_even_if_the_disk_refuses_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = Spill(tmp_path / "a", max_bytes=2000, when_full="oldest")
    assert spill.append([event(n, 380) for n in range(4)]) == []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(spilling, "_write_at", full)
        with pytest.raises(OSError, match="No space"):
            spill.append([event(n, 380) for n in range(4, 8)])
    gone = spill.append([event(n, 380) for n in range(4, 8)])
    assert [one.key for one in gone] == [b"p%d" % n for n in range(4)]
    assert spill.events == 4


def test_what_is_written_outlives_a_loss_of_power_once_it_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    spill = Spill(tmp_path / "spill")
    spill.append([event(0)])
    after_first = len(synced)
    for number in range(1, 50):
        spill.append([event(number)])
    assert after_first == 2  # the file and the folder that names it
    assert len(synced) < 50  # at intervals, not with each batch
    before = len(synced)
    spill.append([event(50, 5 * 1024 * 1024)])  # its segment is full
    assert len(synced) == before + 2
    spill.append([event(51)])
    before = len(synced)
    spill.close()
    assert len(synced) == before + 2


def test_a_disk_that_fails_to_sync_has_kept_nothing_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spill = Spill(tmp_path / "spill")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", broken)
        with pytest.raises(OSError, match="Input/output error"):
            spill.append([event(0)])
    assert (spill.events, spill.bytes) == (0, 0)
    spill.append([event(1)])
    kept = spill.oldest()
    assert kept is not None
    assert [one.key for one in kept.events] == [b"p1"]
    assert kept.lost_bytes == 0


def test_a_record_that_was_being_written_ends_its_segment_and_costs_no_other(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    spill.append([event(n) for n in range(5)])
    spill.close()
    (file,) = tmp_path.glob("*.spill")
    file.write_bytes(file.read_bytes()[:-3])
    again = Spill(tmp_path)
    assert again.events == 4
    again.append([event(9)])
    keys: list[str | bytes] = []
    while (segment := again.oldest()) is not None:
        keys += [one.key for one in segment.events]
        again.remove(segment)
    assert keys == [b"p0", b"p1", b"p2", b"p3", b"p9"]


def test_damage_is_reported_and_kept_and_what_precedes_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spill = Spill(tmp_path)
    spill.append([event(n) for n in range(5)])
    (file,) = tmp_path.glob("*.spill")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    segment = spill.oldest()
    assert segment is not None
    assert [one.key for one in segment.events] == [b"p0", b"p1"]
    spill.remove(segment)
    assert "cannot be read" in caplog.text
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    assert (spill.events, spill.bytes) == (0, 0)


def test_an_altered_length_costs_no_byte_of_what_follows(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    spill.append([event(n) for n in range(100)])
    spill.close()
    (file,) = tmp_path.glob("*.spill")
    data = bytearray(file.read_bytes())
    data[7] ^= 0x40
    file.write_bytes(data)
    (tmp_path / "copy of 1.spill").write_bytes(b"")  # somebody looked
    again = Spill(tmp_path)
    assert again.events == 0
    (kept,) = tmp_path.glob("*.damaged")
    assert kept.read_bytes() == bytes(data)
    again.close()


def test_a_producer_that_cannot_be_made_now_is_made_later_and_events_go_to_disk(
    bench: ServingBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, made = free_port(), [0]
    outbox = Outbox(through(port, bench), spill=Spill(tmp_path / "spill"))
    new_producer = outbox._new_producer

    def refuse() -> Producer:
        made[0] += 1
        raise SettingsError("the certificate is gone for a moment")

    monkeypatch.setattr(outbox, "_new_producer", refuse)
    topic = bench.connection.topic(PREDICTIONS)
    for number in range(50):
        outbox.send(topic, f"p{number}".encode(), b"{}")
    wait_until(lambda: made[0] > 0)
    wait_until(lambda: outbox.stats.on_disk == 50)
    outbox.send(topic, b"p50", b"{}")
    wait_until(lambda: outbox.stats.on_disk == 51)
    monkeypatch.setattr(outbox, "_new_producer", new_producer)
    with forwarded(port, bench.connection.bootstrap_servers):
        assert outbox.flush(60) == 0
    outbox.close(5)
    assert outbox.stats.dropped == 0
    keys = {(record.key or b"").decode() for record in bench.read(PREDICTIONS)}
    assert keys == {f"p{number}" for number in range(51)}
