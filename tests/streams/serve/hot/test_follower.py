"""A server never gets worse: it acknowledges, refuses what it must, and comes back where it was."""

from __future__ import annotations

import shutil
from pathlib import Path

from driftloop.models.registry.signing import load_or_create_keypair
from driftloop.schemas.topics import MODEL_ACKS, MODEL_UPDATES
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient

from tests.support.kafka.topics import write
from tests.support.serve.bench import ServingBench, ack_with
from tests.support.waiting import wait_until


def test_what_is_served_is_acknowledged_and_said_again_each_minute(
    bench: ServingBench, client: EventClient
) -> None:
    with bench.serving(client, bench.update(1, 5), ack_every_s=0.2):
        ack = ack_with(bench, lambda ack: ack.status == "live")
        wait_until(lambda: len(bench.acks()) >= 3)
    assert (ack.server_id, ack.model, ack.version, ack.generation) == ("serve-test", "m", 5, 1)
    assert ack.load_ms > 0
    later = bench.acks()[-1]
    assert later.ts > ack.ts
    assert later.model_copy(update={"ts": ack.ts}) == ack
    records = bench.read(MODEL_ACKS)
    assert {record.key for record in records} == {b"serve-test/m"}
    assert len({record.partition for record in records}) == 1


def test_a_tampered_artifact_is_refused_with_the_reason_while_the_old_version_serves(
    bench: ServingBench, client: EventClient
) -> None:
    with bench.serving(client, bench.update(1, 1)) as hot:
        update = bench.update(2, 2)
        data = bytearray(bench.artifact(2).read_bytes())
        data[len(data) // 2] ^= 1
        bench.artifact(2).write_bytes(data)
        bench.publish(update)
        ack = ack_with(bench, lambda ack: ack.status == "refused")
        assert (ack.generation, ack.version) == (2, 1)
        assert "was altered" in ack.reason
        assert hot.predict({"x": 0.0}).version == 1
        bench.publish(bench.update(3, 3))
        assert hot.wait_generation(3)
        assert hot.predict({"x": 0.0}).version == 3


def test_a_wrong_signature_is_refused_with_the_reason_while_the_old_version_serves(
    bench: ServingBench, client: EventClient, tmp_path: Path
) -> None:
    with bench.serving(client, bench.update(1, 1)) as hot:
        good = bench.update(50, 2)
        altered = good.model_copy(update={"generation": 60})
        stranger = load_or_create_keypair(tmp_path / "stranger").sign(
            good.model_copy(update={"generation": 70})
        )
        unsigned = good.model_copy(update={"signature": "", "generation": 80})
        for forged, message in (
            (altered, "signature is wrong"),
            (stranger, "which is not trusted here"),
            (unsigned, "carries no signature"),
        ):
            bench.publish(forged)
            ack = ack_with(bench, lambda ack, forged=forged: ack.generation == forged.generation)
            assert (ack.status, ack.version) == ("refused", 1)
            assert message in ack.reason
            assert hot.predict({"x": 0.0}).version == 1
        # A forged generation does not stand in an honest one's way, now or after a restart.
        bench.publish(bench.update(2, 2))
        assert hot.wait_generation(2)
    with bench.serve(client) as hot:
        assert hot.wait_generation(2)
        assert hot.version == 2


def test_a_replayed_update_is_refused(bench: ServingBench, client: EventClient) -> None:
    first = bench.update(1, 1)
    with bench.serving(client, first) as hot:
        second = bench.update(2, 2)
        bench.publish(second)
        assert hot.wait_generation(2)
        bench.publish(first)
        ack = ack_with(bench, lambda ack: ack.status == "refused")
        assert "generation 1 is stale: 2 was seen already" in ack.reason
        assert hot.predict({"x": 0.0}).version == 2
        before = len(bench.acks())
        bench.publish(second)  # says again what serves: nothing to do, nothing to refuse
        bench.publish(bench.update(3, 3))
        assert hot.wait_generation(3)
        wait_until(lambda: bench.acks()[-1].generation == 3)
        assert len(bench.acks()) == before + 1


def test_a_restart_serves_at_once_and_never_goes_back(bench: ServingBench, client: EventClient) -> None:
    first, second = bench.update(1, 1), bench.update(2, 2)
    bench.publish(first)
    bench.publish(second)
    with bench.serve(client) as hot:
        assert hot.wait_generation(2)
    # As after compaction, with a replay on top: the topic shows generation 1 only.
    other = Connection("127.0.0.1:1", bench.connection.prefix, {"log_level": "0"})
    with bench.serve(client, connection=other) as hot:
        assert hot.wait_ready(20)
        assert hot.predict({"x": 0.0}).version == 2
        assert not hot.status.following
        wait_until(lambda: hot.status.trouble)
    bench.publish(first)
    with bench.serve(client) as hot:
        wait_until(lambda: hot.status.following)
        assert (hot.version, hot.generation) == (2, 2)


def test_a_key_that_comes_later_is_trusted_without_a_restart(
    bench: ServingBench, client: EventClient
) -> None:
    trusted = bench.keys_dir / "trusted"
    hidden = bench.keys_dir / "hidden"
    shutil.move(trusted, hidden)
    bench.publish(bench.update(1, 1))
    with bench.serve(client) as hot:
        ack_with(bench, lambda ack: "not trusted here" in ack.reason)
        shutil.move(hidden, trusted)
        assert hot.wait_generation(1)


def test_garbage_on_the_updates_topic_stops_nothing(bench: ServingBench, client: EventClient) -> None:
    bench.publish(bench.update(1, 1))
    for garbage in (b"", b"{", b'{"model":"m"}', b"\xff\xfe", b"[" * 10_000):
        write(bench.connection, (MODEL_UPDATES, "m", garbage))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        write(bench.connection, (MODEL_UPDATES, "m", b'{"model":"m","generation":-1}'))
        bench.publish(bench.update(2, 2))
        assert hot.wait_generation(2)
