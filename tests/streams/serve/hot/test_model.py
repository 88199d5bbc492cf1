"""A server never gets worse: it swaps under load, refuses what it must, and comes back where it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from driftloop.infra import api
from driftloop.models.formats.features import FeatureError
from driftloop.models.formats.fitted import Fitted
from driftloop.schemas.errors import NoModelError
from driftloop.schemas.serving import FeatureSpec
from driftloop.schemas.topics import PREDICTIONS, SPECS
from driftloop.streams.serve.client import EventClient, InvalidEvent
from driftloop.streams.serve.hot.model import Failed, Served, Swapped
from driftloop.streams.serve.privacy import Hasher

from tests.support.kafka.topics import write
from tests.support.meanwhile import meanwhile
from tests.support.models.onnx import linear_classifier
from tests.support.serve.bench import STEP, ServingBench, ack_with, model_of_version, version_of_answer
from tests.support.waiting import wait_until

HASHER = Hasher(b"a key of the deployment")


def test_the_live_version_answers_and_every_answer_is_emitted(
    bench: ServingBench, client: EventClient
) -> None:
    bench.apply_spec(segments=("hub",))
    with bench.serving(client, bench.update(1, 7)) as hot:
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


def test_an_update_swaps_without_a_failed_request(bench: ServingBench, client: EventClient) -> None:
    bench.publish(bench.update(1, 1))
    swaps: list[Swapped] = []
    answered: list[Served] = []
    with bench.serve(client, on_swap=swaps.append) as hot:
        assert hot.wait_ready()
        with meanwhile(lambda: answered.append(hot.predict({"x": 0.0})), threads=2):
            for generation in range(2, 12):
                seen = len(answered)
                bench.publish(bench.update(generation, 1 + generation % 3))
                assert hot.wait_generation(generation)
                wait_until(lambda seen=seen: len(answered) > seen + 20)
    assert all(version_of_answer(served.prediction) == served.version for served in answered)
    assert {served.version for served in answered} == {1, 2, 3}
    assert [swap.generation for swap in swaps] == list(range(1, 12))
    client.flush(60)
    events = bench.predictions()
    assert len(events) == len(answered)
    assert all(version_of_answer(event.prediction) == event.version for event in events)


def test_an_answer_that_fails_reaches_the_caller_and_the_topic(
    bench: ServingBench, client: EventClient
) -> None:
    with bench.serving(client, bench.update(1, 4)) as hot:
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


def test_a_batch_answers_each_row_and_names_the_ones_that_fail(
    bench: ServingBench, client: EventClient
) -> None:
    rows: list[dict[str, Any]] = [{"x": 1.0}, {"x": "wide"}, {"x": None}, {"x": [1]}, {"x": 3}]
    with bench.serving(client, bench.update(1, 2)) as hot:
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


def test_with_no_version_a_request_fails_or_gets_the_fallback_and_is_emitted(
    bench: ServingBench, client: EventClient
) -> None:
    with bench.serve(client) as hot:
        wait_until(lambda: hot.status.following)
        assert not hot.can_answer
        assert "no version is live yet, and the spec has no fallback" in hot.why_not
        with pytest.raises(NoModelError, match="no live version yet") as refused:
            hot.predict({"x": 1.0}, "none")
        assert refused.value.prediction_id == "none"
        with pytest.raises(NoModelError) as refused_many:
            hot.predict_many([{"x": 1.0}, {"x": [1]}], ["many-1", "many-2"])
        assert refused_many.value.prediction_ids == ("many-1", "many-2")
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


def test_a_request_that_fails_tells_the_id_under_which_it_was_emitted(
    bench: ServingBench, client: EventClient
) -> None:
    with bench.serve(client) as hot:
        wait_until(lambda: hot.status.following)
        with pytest.raises(NoModelError) as unanswered:
            hot.predict({"x": 1.0})
        with pytest.raises(NoModelError) as batch:
            hot.predict_many([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}], [None, "", None])
        first, unnamed, third = batch.value.prediction_ids
        assert unnamed == ""
        bench.publish(bench.update(1, 1))
        assert hot.wait_ready()
        with pytest.raises(FeatureError) as mistyped:
            hot.predict({"x": "wide"})
        with pytest.raises(InvalidEvent) as invalid:
            hot.predict({"x": [1]})
        with pytest.raises(InvalidEvent) as not_emitted:
            hot.predict({"x": 1.0}, ts=-1)
        assert not_emitted.value.prediction_id is None
        ids = [one.value.prediction_id for one in (unanswered, mistyped, invalid)]
    client.flush()
    assert {event.prediction_id for event in bench.predictions()} == {*ids, first, third}


def test_shadows_and_canaries_answer_in_their_roles(bench: ServingBench, client: EventClient) -> None:
    shadow = {"version": 2, "manifest_sha256": bench.make(2)}
    canary = {"version": 3, "manifest_sha256": bench.make(3), "fraction": 0.5}
    with bench.serving(client, bench.update(1, 1, shadows=[shadow], canary=canary)) as hot:
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


def test_a_failing_shadow_costs_only_its_own_answer(bench: ServingBench, client: EventClient) -> None:
    narrow = Fitted("onnx", linear_classifier(["no", "yes"]), (
        FeatureSpec(name="x", type="number"), FeatureSpec(name="y", type="number"),
    ), ("no", "yes"))  # fmt: skip
    shadow = {"version": 2, "manifest_sha256": bench.put(2, narrow, [{"x": 1.0, "y": 0.0}])}
    with bench.serving(client, bench.update(1, 1, shadows=[shadow])) as hot:
        for y in (0.0, "wide", 1.0):
            assert hot.predict({"x": 1.0, "y": y}).version == 1
    client.flush()
    roles = [event.role for event in bench.predictions()]
    assert (roles.count("champion"), roles.count("shadow")) == (3, 2)
    assert hot.shadows_skipped == 1


def test_the_model_sees_exactly_what_leaves(bench: ServingBench, client: EventClient) -> None:
    bench.apply_spec(
        features={
            "x": "number",
            "tail": {"type": "category", "privacy": "hash"},
            "secret": {"type": "number", "privacy": "drop"},
        }
    )
    rows: list[dict[str, Any]] = []
    with bench.serving(client, bench.update(1, 1), hasher=HASHER) as hot:
        swap = hot._follower.serving.hot  # type: ignore[reportPrivateUsage]
        many, one = swap.predict, swap.predict_one

        def watched(asked: Sequence[Any], ids: Sequence[str] | None = None) -> Any:
            rows.extend(asked)
            return many(asked, ids)

        def watched_one(asked: Any, prediction_id: str) -> Any:
            rows.append(asked)
            return one(asked, prediction_id)

        swap.predict, swap.predict_one = watched, watched_one  # type: ignore[method-assign]
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
        {"x": 1.0},
        "feature secret: must be a number, text, bool or None, got list: "
        "send each element by a name of its own",
    )  # fmt: skip
    assert by_id["failed"].features == {"x": "wide", "tail": HASHER.hash("tail", "N123")}
    rows.pop()
    events = [event for event in bench.predictions() if event.error is None]
    events.sort(key=lambda event: str(event.features["x"]))
    assert [event.features for event in events] == rows
    assert rows[0] == {"x": 1.0, "tail": HASHER.hash("tail", "N123")}
    assert events[0].segments == {"tail": HASHER.hash("tail", "N123")}


@pytest.mark.parametrize("spec", ["hash without a key", "unreadable"])
def test_what_may_leave_being_unknown_nothing_leaves(
    bench: ServingBench, client: EventClient, spec: str
) -> None:
    if spec == "unreadable":
        write(bench.connection, (SPECS, "m", b'{"model":"m","digest":"","ts":1,"spec":{"task":"guessing"}}'))
    else:
        bench.apply_spec(features={"x": {"type": "number", "privacy": "hash"}})
    bench.publish(bench.update(1, 1))
    with bench.serve(client) as hot:
        assert hot.wait_generation(1)
        message = "DRIFTLOOP_HASH_KEY" if spec != "unreadable" else "cannot be read"
        wait_until(lambda: message in hot.why_not)
        with pytest.raises(NoModelError, match=message):
            hot.predict({"x": 1.0}, "p")
    client.flush()
    (event,) = bench.predictions()
    assert (event.features, event.error) == ({}, "no model")


@pytest.mark.usefixtures("in_environment")
def test_an_own_server_needs_only_the_environment(bench: ServingBench) -> None:
    bench.publish(bench.update(1, 6))
    with api.HotModel("m", server_id="mine") as hot:
        assert hot.wait_ready()
        served = hot.predict({"x": 1.0})
        ack = ack_with(bench, lambda ack: ack.status == "live")
    assert ack.server_id == "serve-mine"
    assert [event.prediction_id for event in bench.predictions()] == [served.prediction_id]
    assert (bench.keys_dir.parent / "serve" / "serve-mine" / "m.json").exists()


def test_an_answer_names_its_version() -> None:
    assert version_of_answer(3002.0, 2.0) == 3
    assert model_of_version(3).data != model_of_version(4).data
