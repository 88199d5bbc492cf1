"""A server never gets worse: it swaps under load, refuses what it must, and comes back where it was."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driftloop.infra import front_door
from driftloop.models.features import FeatureError
from driftloop.models.fitted import Fitted
from driftloop.models.signing import load_or_create_keypair, load_verifier
from driftloop.schemas.errors import NoModelError, StateError
from driftloop.schemas.serving import FeatureSpec, ModelAck
from driftloop.schemas.spec import ModelSpec
from driftloop.schemas.topics import MODEL_ACKS, MODEL_UPDATES, PREDICTIONS, SPECS
from driftloop.streams.client import Client, InvalidEvent
from driftloop.streams.connection import Connection
from driftloop.streams.hot_model import Failed, HotModel, Served, Swapped
from driftloop.streams.hot_updates import UpdateCourse
from driftloop.streams.kept_state import KeptState
from driftloop.streams.privacy import Hasher

from .model_worlds import update_to
from .onnx_models import linear_classifier
from .serving_bench import STEP, Bench, telling_model, version_told_by
from .waiting import wait_until

HASHER = Hasher(b"a key of the deployment")


@pytest.fixture
def bench(topics: Connection, tmp_path: Path) -> Bench:
    return Bench(topics, tmp_path)


@pytest.fixture
def client(topics: Connection) -> Iterator[Client]:
    with Client(topics) as made:
        yield made


def ack_with(bench: Bench, wanted: Callable[[ModelAck], bool]) -> ModelAck:
    """The first acknowledgement that is as wanted; waits for it."""
    return wait_until(lambda: next(filter(wanted, bench.acks()), None), 20, "such an acknowledgement")


# --- serving ---------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_live_version_answers_and_every_answer_is_emitted(bench: Bench, client: Client) -> None:
    bench.apply_spec(segments=("hub",))
    bench.publish(bench.update(1, 7))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        served = hot.predict({"x": np.float32(2.5)}, segments={"hub": "JFK"}, ts=1_700_000_000_000)
        named = hot.predict({"x": 1}, "mine")
        assert (hot.version, hot.generation, hot.why_not) == (7, 1, "")
        assert hot.manifest == bench.manifests[7]
    assert (served.prediction, served.version, served.role) == (7002.5, 7, "champion")
    assert 0 < served.latency_ms < 1000
    client.flush()
    events = {event.prediction_id: event for event in bench.predictions()}
    event = events[served.prediction_id]
    assert (event.model, event.version, event.features) == ("m", 7, {"x": 2.5})
    assert (event.prediction, event.segments, event.ts) == (7002.5, {"hub": "JFK"}, 1_700_000_000_000)
    assert event.latency_ms == pytest.approx(served.latency_ms)
    assert events["mine"].prediction == named.prediction == 7001.0


@pytest.mark.integration
def test_an_update_swaps_without_a_failed_request(bench: Bench, client: Client) -> None:
    bench.publish(bench.update(1, 1))
    swaps: list[Swapped] = []
    failures: list[BaseException] = []
    answered: list[Served] = []
    done = threading.Event()

    def hammer(hot: HotModel) -> None:
        while not done.is_set():
            try:
                answered.append(hot.predict({"x": 0.0}))
            except BaseException as error:  # noqa: BLE001  whatever it is, it fails the test below
                failures.append(error)

    with bench.serve(client, on_swap=swaps.append) as hot:
        assert hot.wait_ready()
        threads = [threading.Thread(target=hammer, args=(hot,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for generation in range(2, 12):
            seen = len(answered)
            bench.publish(bench.update(generation, 1 + generation % 3))
            assert hot.wait_generation(generation)
            wait_until(lambda seen=seen: len(answered) > seen + 20)
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert all(version_told_by(served.prediction) == served.version for served in answered)
    assert {served.version for served in answered} == {1, 2, 3}
    assert [swap.generation for swap in swaps] == list(range(1, 12))
    client.flush(30)
    events = bench.predictions()
    assert len(events) == len(answered)
    assert all(version_told_by(event.prediction) == event.version for event in events)


@pytest.mark.integration
def test_an_answer_that_fails_reaches_the_caller_and_the_topic(bench: Bench, client: Client) -> None:
    bench.publish(bench.update(1, 4))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        with pytest.raises(FeatureError, match="feature x: must be a number"):
            hot.predict({"x": "wide"}, "typed")
        with pytest.raises(InvalidEvent, match="feature x: is nan"):
            hot.predict({"x": float("nan"), "y": 1}, "nan")
        with pytest.raises(InvalidEvent, match="prediction_id must be text"):
            hot.predict({"x": 1.0}, "")
        assert hot.predict({"x": 1.0}).prediction == 4001.0
    client.flush()
    events = {event.prediction_id: event for event in bench.predictions()}
    assert len(events) == 3
    assert (events["typed"].version, events["typed"].features) == (4, {"x": "wide"})
    assert "must be a number" in (events["typed"].error or "")
    assert events["nan"].features == {"y": 1}
    assert "is nan" in (events["nan"].error or "")


@pytest.mark.integration
def test_a_batch_answers_each_row_and_names_the_ones_that_fail(bench: Bench, client: Client) -> None:
    bench.publish(bench.update(1, 2))
    rows: list[dict[str, Any]] = [{"x": 1.0}, {"x": "wide"}, {"x": None}, {"x": [1]}, {"x": 3}]
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        results = hot.predict_many(rows, ["a", "b", "", "d", None], ts=[5, None, None, None, None])
        clean = hot.predict_many([{"x": float(i)} for i in range(100)])
        assert hot.predict_many([]) == []
        with pytest.raises(ValueError, match="shorter"):
            hot.predict_many(rows, ["a"])
    first, wide, unnamed, nested, last = results
    assert isinstance(first, Served)
    assert isinstance(last, Served)
    assert (first.prediction, first.prediction_id, last.prediction) == (2001.0, "a", 2003.0)
    assert isinstance(wide, Failed)
    assert (wide.prediction_id, wide.error[:11]) == ("b", "feature x: ")
    assert isinstance(unnamed, Failed)
    assert "prediction_id must be text" in unnamed.error
    assert isinstance(nested, Failed)
    assert "got list" in nested.error
    assert [one.prediction for one in clean if isinstance(one, Served)] == [2 * STEP + i for i in range(100)]
    client.flush()
    events = {event.prediction_id: event for event in bench.predictions()}
    assert len(events) == 104
    assert (events["a"].ts, events["a"].prediction) == (5, 2001.0)
    assert (events["b"].error is not None, events["d"].error is not None) == (True, True)


@pytest.mark.integration
def test_with_no_version_a_request_fails_or_gets_the_fallback_and_is_emitted(
    bench: Bench, client: Client
) -> None:
    with bench.serve(client) as hot:
        wait_until(lambda: hot.status.following)
        assert not hot.can_answer
        assert "no version is live yet, and the spec has no fallback" in hot.why_not
        with pytest.raises(NoModelError, match="no live version yet"):
            hot.predict({"x": 1.0}, "none")
        with pytest.raises(NoModelError):
            hot.predict_many([{"x": 1.0}, {"x": [1]}], ["many-1", "many-2"])
        bench.apply_spec(serving={"fallback": 0.5})
        assert hot.wait_ready()
        served = hot.predict({"x": 1.0}, "fallback")
        (batch,) = hot.predict_many([{"x": 1.0}], ["batch"])
        assert (served.prediction, served.version) == (0.5, 0)
        assert isinstance(batch, Served)
        bench.publish(bench.update(1, 1))
        assert hot.wait_generation(1)
        assert hot.predict({"x": 1.0}, "live").version == 1
        bench.publish(bench.update(2, None))
        assert hot.wait_generation(2)
        assert hot.predict({"x": 1.0}, "retired")[:3] == (0.5, None, 0)
    client.flush()
    events = {event.prediction_id: event for event in bench.predictions()}
    assert {known: (event.version, event.prediction, event.error) for known, event in events.items()} == {
        "none": (0, None, "no model"),
        "many-1": (0, None, "no model"),
        "many-2": (0, None, events["many-2"].error),
        "fallback": (0, 0.5, None),
        "batch": (0, 0.5, None),
        "live": (1, 1001.0, None),
        "retired": (0, 0.5, None),
    }


@pytest.mark.integration
def test_shadows_and_canaries_answer_in_their_roles(bench: Bench, client: Client) -> None:
    shadow = {"version": 2, "manifest_sha256": bench.make(2)}
    canary = {"version": 3, "manifest_sha256": bench.make(3), "fraction": 0.5}
    bench.publish(bench.update(1, 1, shadows=[shadow], canary=canary))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        served = [hot.predict({"x": 1.0}) for _ in range(60)]
        again = hot.predict({"x": 1.0}, served[0].prediction_id)
    client.flush()
    assert again.version == served[0].version
    assert {(one.version, one.role) for one in served} == {(1, "champion"), (3, "canary")}
    events = bench.predictions()
    shadows = [event for event in events if event.role == "shadow"]
    assert {event.prediction_id for event in shadows} == {one.prediction_id for one in served}
    assert {(event.version, event.prediction) for event in shadows} == {(2, 2001.0)}
    assert all(event.latency_ms is not None for event in shadows)
    assert len(events) == 2 * 61
    assert hot.shadows_skipped == 0


@pytest.mark.integration
def test_a_failing_shadow_costs_only_its_own_answer(bench: Bench, client: Client) -> None:
    narrow = Fitted("onnx", linear_classifier(["no", "yes"]), (
        FeatureSpec(name="x", type="number"), FeatureSpec(name="y", type="number"),
    ), ("no", "yes"))  # fmt: skip
    shadow = {"version": 2, "manifest_sha256": bench.make(2, narrow)}
    bench.publish(bench.update(1, 1, shadows=[shadow]))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        for y in (0.0, "wide", 1.0):
            assert hot.predict({"x": 1.0, "y": y}).version == 1
    client.flush()
    roles = [event.role for event in bench.predictions()]
    assert (roles.count("champion"), roles.count("shadow")) == (3, 2)
    assert hot.shadows_skipped == 1


@pytest.mark.integration
def test_the_model_sees_exactly_what_leaves(bench: Bench, client: Client) -> None:
    bench.apply_spec(
        features={
            "x": "number",
            "tail": {"type": "category", "privacy": "hash"},
            "secret": {"type": "number", "privacy": "drop"},
        }
    )
    rows: list[dict[str, Any]] = []
    bench.publish(bench.update(1, 1))
    with bench.serve(client, hasher=HASHER) as hot:
        assert hot.wait_ready()
        original = hot._follower.serving.hot.predict  # type: ignore[reportPrivateUsage]

        def watched(asked: Sequence[Any], ids: Sequence[str] | None = None) -> Any:
            rows.extend(asked)
            return original(asked, ids)

        hot._follower.serving.hot.predict = watched  # type: ignore[method-assign]
        hot.predict({"x": 1.0, "tail": "N123", "secret": 4}, segments={"tail": "N123", "secret": 4})
        hot.predict_many([{"x": 2.0, "tail": "N123", "secret": 4}])
        with pytest.raises(InvalidEvent, match=r"got list.*Ann"):
            hot.predict({"x": 1.0, "secret": ["Ann"]}, "wrong")
        with pytest.raises(FeatureError):
            hot.predict({"x": "wide", "tail": "N123"}, "failed")
    client.flush()
    values = [record.value or b"" for record in bench.read(PREDICTIONS)]
    assert not any(b"Ann" in value or b"N123" in value for value in values)
    by_id = {event.prediction_id: event for event in bench.predictions()}
    assert (by_id["wrong"].features, by_id["wrong"].error) == (
        {"x": 1.0}, "feature secret: must be a number, text, bool or None, got list",
    )  # fmt: skip
    assert by_id["failed"].features == {"x": "wide", "tail": HASHER.hash("tail", "N123")}
    rows.pop()
    events = [event for event in bench.predictions() if event.error is None]
    events.sort(key=lambda event: str(event.features["x"]))
    assert [event.features for event in events] == rows
    assert rows[0] == {"x": 1.0, "tail": HASHER.hash("tail", "N123")}
    assert events[0].segments == {"tail": HASHER.hash("tail", "N123")}


@pytest.mark.integration
@pytest.mark.parametrize("spec", ["hash without a key", "unreadable"])
def test_what_may_leave_being_unknown_nothing_leaves(bench: Bench, client: Client, spec: str) -> None:
    if spec == "unreadable":
        bench.put(SPECS, "m", b'{"model":"m","digest":"","ts":1,"spec":{"task":"guessing"}}')
    else:
        bench.apply_spec(features={"x": {"type": "number", "privacy": "hash"}})
    bench.publish(bench.update(1, 1))
    with bench.serve(client) as hot:
        assert hot.wait_generation(1)
        told = "DRIFTLOOP_HASH_KEY" if spec != "unreadable" else "cannot be read"
        wait_until(lambda: told in hot.why_not)
        with pytest.raises(NoModelError, match=told):
            hot.predict({"x": 1.0}, "p")
    client.flush()
    (event,) = bench.predictions()
    assert (event.features, event.error) == ({}, "no model")


# --- updates ---------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_what_is_served_is_acknowledged_and_said_again_each_minute(bench: Bench, client: Client) -> None:
    bench.publish(bench.update(1, 5))
    with bench.serve(client, ack_every_s=0.2) as hot:
        assert hot.wait_ready()
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


@pytest.mark.integration
def test_a_tampered_artifact_is_refused_with_the_reason_while_the_old_version_serves(
    bench: Bench, client: Client
) -> None:
    bench.publish(bench.update(1, 1))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
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


@pytest.mark.integration
def test_a_wrong_signature_is_refused_with_the_reason_while_the_old_version_serves(
    bench: Bench, client: Client, tmp_path: Path
) -> None:
    bench.publish(bench.update(1, 1))
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        good = bench.update(50, 2)
        altered = good.model_copy(update={"generation": 60})
        stranger = load_or_create_keypair(tmp_path / "stranger").sign(
            good.model_copy(update={"generation": 70})
        )
        unsigned = good.model_copy(update={"signature": "", "generation": 80})
        for forged, told in (
            (altered, "signature is wrong"),
            (stranger, "which is not trusted here"),
            (unsigned, "carries no signature"),
        ):
            bench.publish(forged)
            ack = ack_with(bench, lambda ack, forged=forged: ack.generation == forged.generation)
            assert (ack.status, ack.version) == ("refused", 1)
            assert told in ack.reason
            assert hot.predict({"x": 0.0}).version == 1
        # A forged generation does not stand in an honest one's way, now or after a restart.
        bench.publish(bench.update(2, 2))
        assert hot.wait_generation(2)
    with bench.serve(client) as hot:
        assert hot.wait_generation(2)
        assert hot.version == 2


@pytest.mark.integration
def test_a_replayed_update_is_refused(bench: Bench, client: Client) -> None:
    first = bench.update(1, 1)
    bench.publish(first)
    with bench.serve(client) as hot:
        assert hot.wait_ready()
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


@pytest.mark.integration
def test_a_restart_serves_at_once_and_never_goes_back(bench: Bench, client: Client) -> None:
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


@pytest.mark.integration
def test_a_key_that_comes_later_is_trusted_without_a_restart(bench: Bench, client: Client) -> None:
    trusted = bench.keys_dir / "trusted"
    hidden = bench.keys_dir / "hidden"
    shutil.move(trusted, hidden)
    bench.publish(bench.update(1, 1))
    with bench.serve(client) as hot:
        ack_with(bench, lambda ack: "not trusted here" in ack.reason)
        shutil.move(hidden, trusted)
        assert hot.wait_generation(1)


@pytest.mark.integration
def test_garbage_on_the_updates_topic_stops_nothing(bench: Bench, client: Client) -> None:
    bench.publish(bench.update(1, 1))
    for garbage in (b"", b"{", b'{"model":"m"}', b"\xff\xfe", b"[" * 10_000):
        bench.put(MODEL_UPDATES, "m", garbage)
    with bench.serve(client) as hot:
        assert hot.wait_ready()
        bench.put(MODEL_UPDATES, "m", b'{"model":"m","generation":-1}')
        bench.publish(bench.update(2, 2))
        assert hot.wait_generation(2)


@pytest.mark.integration
def test_an_own_server_needs_only_the_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(bench.update(1, 6))
    monkeypatch.setenv("DRIFTLOOP_BOOTSTRAP_SERVERS", bench.connection.bootstrap_servers)
    monkeypatch.setenv("DRIFTLOOP_TOPIC_PREFIX", bench.connection.prefix)
    monkeypatch.setenv("DRIFTLOOP_STATE_DIR", str(bench.keys_dir.parent))
    with front_door.HotModel("m", server_id="mine") as hot:
        assert hot.wait_ready()
        served = hot.predict({"x": 1.0})
        ack = ack_with(bench, lambda ack: ack.status == "live")
    assert ack.server_id == "serve-mine"
    assert [event.prediction_id for event in bench.predictions()] == [served.prediction_id]
    assert (bench.keys_dir.parent / "serve" / "serve-mine" / "m.json").exists()


# --- the course of updates, without Kafka ----------------------------------------------------------------


class _Course:
    """A server's course of updates on a disk of its own; ``again`` is the server after a restart."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.again()

    def again(self) -> None:
        self.kept = KeptState(self.folder, "m")
        self.course = UpdateCourse(
            "m", store=self.bench.store, verifier=lambda: load_verifier(self.bench.keys_dir), kept=self.kept
        )

    @property
    def serves(self) -> tuple[int, int]:
        current = self.course.hot.current
        return current.version, current.generation


@pytest.fixture
def course(tmp_path: Path) -> _Course:
    return _Course(Bench(Connection("127.0.0.1:1"), tmp_path), tmp_path / "serve")


def test_a_start_loads_only_the_newest_of_a_long_history(course: _Course) -> None:
    outcomes = course.course.start([course.bench.update(g, g) for g in range(1, 9)])
    assert [(one.applied.status, one.applied.generation) for one in outcomes] == [("live", 8)]
    assert course.serves == (8, 8)


def test_a_start_falls_back_to_where_a_running_server_would_be(course: _Course) -> None:
    updates = [course.bench.update(g, g) for g in (1, 2, 3)]
    course.bench.artifact(3).unlink()
    outcomes = course.course.start(updates)
    assert [(one.applied.status, one.applied.generation) for one in outcomes] == [("refused", 3), ("live", 2)]
    assert course.serves == (2, 2)
    course.bench.make(3)
    assert course.course.retry_in_s == 1.0
    (outcome,) = course.course.retry()
    assert outcome.applied.status == "live"
    assert course.serves == (3, 3)
    assert course.course.retry_in_s is None


def test_a_fallback_is_never_a_version_that_a_newer_update_bars(course: _Course) -> None:
    bench = course.bench
    rolled_back = bench.signer.sign(bench.update(3, 3).model_copy(update={"barred": (2,)}))
    bench.artifact(3).unlink()
    course.course.start([bench.update(1, 1), bench.update(2, 2), rolled_back])
    assert course.serves == (1, 1)


def test_what_is_kept_survives_and_old_generations_do_not_come_back(course: _Course) -> None:
    updates = [course.bench.update(g, g) for g in (1, 2, 3)]
    course.course.start(updates[:1])
    course.course.offer(updates[2])
    course.again()
    assert course.serves == (0, 0)
    course.course.restore()
    assert course.serves == (3, 3)
    assert course.course.start(updates) == []
    (outcome,) = course.course.offer(updates[1])
    assert "generation 2 is stale" in outcome.applied.reason
    assert course.serves == (3, 3)


def test_a_kept_version_that_cannot_be_read_is_tried_again_and_nothing_older_serves(course: _Course) -> None:
    updates = [course.bench.update(g, g) for g in (1, 2)]
    course.course.start(updates)
    course.bench.artifact(2).unlink()
    course.again()
    course.course.restore()
    course.course.start(updates)
    assert course.serves == (0, 0)
    course.bench.make(2)
    course.course.retry()
    assert course.serves == (2, 2)


def test_retries_slow_down_and_a_newer_update_ends_them(course: _Course) -> None:
    bench = course.bench
    update = bench.update(1, 1)
    bench.artifact(1).unlink()
    course.course.start([update])
    waits = [course.course.retry_in_s]
    for _ in range(6):
        (outcome,) = course.course.retry()
        assert outcome.applied.retriable
        waits.append(course.course.retry_in_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    course.course.offer(bench.update(2, 2))
    assert (course.course.retry_in_s, course.serves) == (None, (2, 2))


def test_another_models_update_changes_nothing(course: _Course) -> None:
    bench = course.bench
    other = update_to(bench.signer, 9, (1, bench.make(1)), model="other")
    (outcome,) = course.course.offer(other)
    assert outcome.applied.reason == "the update is for model other, and this serves m"
    assert not outcome.authentic
    course.course.offer(bench.update(1, 1))
    assert course.serves == (1, 1)


def test_a_broken_key_file_refuses_updates_and_keeps_what_serves(course: _Course) -> None:
    course.course.offer(course.bench.update(1, 1))
    (course.bench.keys_dir / "trusted" / "odd.pub").write_text("no key")
    (outcome,) = course.course.offer(course.bench.update(2, 2))
    assert "is not a PEM public key" in outcome.applied.reason
    assert course.serves == (1, 1)


def test_a_disk_that_cannot_be_written_does_not_stop_serving(
    course: _Course, caplog: pytest.LogCaptureFixture
) -> None:
    course.folder.parent.mkdir(exist_ok=True)
    course.folder.write_text("a file where the folder should be")
    course.course.offer(course.bench.update(1, 1))
    assert course.serves == (1, 1)
    assert "cannot be kept on disk" in caplog.text


def test_kept_state_comes_back_whole_or_says_what_to_do(course: _Course, tmp_path: Path) -> None:
    state = KeptState(tmp_path / "kept", "m")
    update = course.bench.update(4, 4)
    spec = ModelSpec.model_validate({"features": {"x": {"type": "number", "privacy": "drop"}}})
    state.update(last_generation=4, live=update)
    state.update(spec=spec)
    again = KeptState(tmp_path / "kept", "m").kept
    assert (again.last_generation, again.live, again.spec) == (4, update, spec)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["m.json"]
    for damaged in (b"", b"{}", b"[]", b'{"last_generation":"x"}', b'{"last_generation":1,"live":"{}"}'):
        (tmp_path / "kept" / "m.json").write_bytes(damaged)
        with pytest.raises(StateError, match="remove it to start from the topic alone"):
            KeptState(tmp_path / "kept", "m")


def test_an_answer_tells_its_version() -> None:
    assert version_told_by(3002.0, 2.0) == 3
    assert telling_model(3).data != telling_model(4).data
