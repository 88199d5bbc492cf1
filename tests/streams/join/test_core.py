"""What becomes of predictions and labels, case by case."""

from __future__ import annotations

import base64
import json

import orjson
import pytest
from driftloop.schemas.dead_letters import MAX_VALUE_BYTES
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.spec.model import Feature, Join, LabelRules, ModelSpec
from driftloop.schemas.vitals import ModelVitals
from driftloop.streams.join.matching.records import MAX_PER_ID
from driftloop.streams.join.reading.batch import BatchReader, Records
from driftloop.streams.join.reading.placement import ORIGIN_HEADER

from tests.support.join.world import JoinWorld, label, prediction, rules_of

HOUR = 3_600_000


def world(join: Join | None = None, **specs: ModelSpec) -> JoinWorld:
    return JoinWorld(rules_of(join or Join(), **(specs or {"m": ModelSpec()})), capacity=1_000)


@pytest.fixture
def w() -> JoinWorld:
    return world()


def entries(of: JoinWorld) -> list[ModelVitals]:
    return [entry for message in of.vitals for entry in message.models]


def test_a_pair_gives_one_outcome_with_the_fields_of_both(w: JoinWorld) -> None:
    w.join(
        prediction("a", "late") | {"scores": {"late": 0.7}, "route": "EWR-SFO"},
        label("a", "on_time") | {"annotator": "ann", "ticket": 7},
    )
    (outcome,) = w.outcomes
    assert (outcome.prediction, outcome.label, outcome.error_value) == ("late", "on_time", 1.0)
    assert (outcome.label_ts, outcome.label_delay_ms, outcome.revision, outcome.seq) == (4_000, 3_000, 0, 0)
    assert (outcome.source, outcome.annotator) == ("system", "ann")
    assert outcome.model_extra == {"route": "EWR-SFO", "label_ticket": 7}


def test_an_outcome_begins_with_its_model_and_has_no_field_twice(w: JoinWorld) -> None:
    raw = orjson.dumps(prediction("a"))[:-1] + b',"ts":1,"ts":1000,"seq":9,"label":"mine", "model":"m"}'
    w.reader = BatchReader(0, 1)
    output = w.joiner.process(
        w.reader.read(
            Records([raw], [b"a"], [0], [1_000]),
            Records([b'{"ts":4000,"label":"late","prediction_id":"a","x":1,"x":2}'], [b"a"], [0], [2_000]),
        )
    )
    ((key, value),) = output.outcomes
    assert key == b"a"
    assert value.startswith(b'{"model":"m",')
    pairs: list[str] = []
    json.loads(value, object_pairs_hook=lambda found: pairs.extend(name for name, _ in found))
    assert len(pairs) == len(set(pairs))


def test_shadows_and_canaries_get_an_outcome_each_from_one_label_even_when_they_come_late(
    w: JoinWorld,
) -> None:
    w.join(prediction("a", "x"), prediction("a", "y", version=2, role="shadow"), label("a", "x"))
    w.now_ms += 60_000
    w.join(prediction("a", "y", version=3, role="canary"))
    assert [(o.version, o.role, o.error_value) for o in w.outcomes] == [
        (1, "champion", 0.0),
        (2, "shadow", 1.0),
        (3, "canary", 1.0),
    ]


def test_the_spec_says_which_source_is_stronger() -> None:
    w = world(m=ModelSpec(labels=LabelRules(source_precedence=("user", "expert"))))
    w.join(prediction("a", "x"), label("a", "x", source="expert"), label("a", "y", source="user"))
    assert [(o.label, o.revision) for o in w.outcomes] == [("x", 0), ("y", 1)]


@pytest.mark.parametrize("disk_lost", [False, True])
def test_a_crash_forgets_no_stronger_source_of_a_label_that_came_back(w: JoinWorld, disk_lost: bool) -> None:
    w.join(prediction("a", "x"), label("a", "y"), label("a", "x"), label("a", "y"))
    w.join(label("a", "y", source="expert"))
    w.die(disk_lost=disk_lost)
    w.restore()
    w.join(label("a", "x"))
    assert [(o.label, o.revision) for o in w.outcomes] == [("y", 0), ("x", 1), ("y", 2)]


@pytest.mark.parametrize(("answer", "truth"), [(1, "1"), ("1", 1.0), (True, "true"), (0, 0)])
def test_classes_are_compared_by_their_names(answer: object, truth: object) -> None:
    w = world()
    w.join(prediction("a", answer), label("a", truth))  # type: ignore[arg-type]
    assert w.outcomes[0].error_value == 0.0


def test_a_failed_request_has_an_outcome_without_an_error_value_and_its_seq_is_passed_over(
    w: JoinWorld,
) -> None:
    w.join(prediction("a", None), prediction("b", "x"), label("a", "x"), label("b", "y"))
    assert [(o.seq, o.error_value) for o in w.outcomes] == [(0, None), (1, 1.0)]
    (entry,) = entries(w)
    assert (entry.counts.failed, entry.first_seq) == (1, 1)
    assert w.errors() == {1: 1.0}


def test_the_error_of_a_regression_is_its_distance() -> None:
    w = world(m=ModelSpec(task="regression"))
    for name, answer, truth in (("a", 2.5, 4), ("b", 1, 1.0), ("c", -1e308, 1e308)):
        w.send(prediction(name, answer), label(name, truth))
    w.batch()
    assert [o.error_value for o in w.outcomes] == [1.5, 0.0, pytest.approx(1.797e308, rel=1e-3)]
    (entry,) = entries(w)
    assert entry.errors is not None
    assert entry.errors.kind == "f64"
    assert (entry.predicted, entry.actual) == (None, None)
    assert entry.predicted_values is not None


def test_words_where_a_regression_needs_numbers_are_refused_on_both_sides() -> None:
    w = world(m=ModelSpec(task="regression"))
    w.join(prediction("a", "much"), prediction("b", 1.5), label("b", "much"), label("b", 2.5))
    assert [o.error_value for o in w.outcomes] == [1.0]
    assert [(letter.topic, letter.offset) for letter in w.dead_letters] == [("predictions", 0), ("labels", 0)]
    assert all("regression" in letter.reason for letter in w.dead_letters)


def test_nothing_expires_while_the_other_topic_lags_behind() -> None:
    w = world(Join(horizon=HOUR, early_horizon=HOUR))
    w.send(prediction("a"), label("b", "late"))
    w.now_ms += HOUR
    w.send(label("a", "late"))
    w.now_ms += 5 * HOUR
    w.send(prediction("z"))
    w.batch(labels=0)
    w.joiner.flush()
    w.batch(labels=0)
    w.batch(labels=1)
    w.batch(labels=1)
    assert [o.prediction_id for o in w.outcomes] == ["a"]


def test_a_model_without_a_spec_is_refused(w: JoinWorld) -> None:
    w.join(prediction("a", model="other"), prediction("b"), label("b", "late"))
    assert "unknown model 'other'" in w.dead_letters[0].reason
    assert len(w.outcomes) == 1


def test_one_id_cannot_hold_any_number_of_answers_or_labels(w: JoinWorld) -> None:
    for i in range(MAX_PER_ID + 5):
        w.send(prediction("a", version=i), label("b", f"l{i}"))
    w.batch()
    assert w.totals()["predictions"] == MAX_PER_ID
    assert len(w.dead_letters) == 10


def test_a_dead_letter_carries_what_came_and_says_what_had_to_be_cut(w: JoinWorld) -> None:
    large = b'"' + b"x" * 4_000_000 + b'"'
    batch = w.reader.read(
        Records([b"{", large], [b"\xff\x00", None], [7, 8], [123, 124]), Records([None], [b"k"], [3], [125])
    )
    letters = [
        DeadLetter.decode(one.dead_letter(f"t.{one.topic.name}")) for one in w.joiner.process(batch).refused
    ]
    first, second, third = letters
    assert (first.stage, first.topic, first.partition, first.offset, first.append_ms) == (
        "join", "t.predictions", 0, 7, 123,
    )  # fmt: skip
    assert base64.b64decode(first.key_b64 or "") == b"\xff\x00"
    assert base64.b64decode(first.value_b64 or "") == b"{"
    assert base64.b64decode(second.value_b64 or "") == large[:MAX_VALUE_BYTES]
    assert "cut" in second.reason
    assert len(second.encode()) < 4_194_304 - 65_536
    assert (third.topic, third.value_b64) == ("t.labels", None)


def test_misrouted_records_are_sent_on_once_with_their_origin(w: JoinWorld) -> None:
    reader = BatchReader(0, 7)
    values = [orjson.dumps(prediction(f"p{i}")) for i in range(50)]
    moved = (ORIGIN_HEADER, b"predictions/3/12")

    def headers(index: int) -> list[tuple[str, str | bytes | None]]:
        return [("trace", b"1")] + ([moved] if index >= 25 else [])

    batch = reader.read(Records(values, [None] * 50, range(50), [5] * 50, headers), Records())
    output = w.joiner.process(batch)
    kept = [event for event in batch.predictions if event is not None]
    assert len(kept) + len(output.misrouted) + len(output.refused) == 50
    assert len(output.misrouted) > 10
    for record in output.misrouted:
        offset = values.index(record.value)
        assert offset < 25
        assert record.partition != 0
        assert record.key.decode() == orjson.loads(record.value)["prediction_id"]
        assert record.headers == [("trace", b"1"), (ORIGIN_HEADER, b"predictions/0/%d" % offset)]
    assert all(refused.offset >= 25 for refused in output.refused)


def test_a_flag_is_one_segment_in_whatever_spelling() -> None:
    w = world(m=ModelSpec(segments=("flag",), features={"flag": Feature(type="bool")}))
    sent = {"a": True, "b": 1, "c": 1.0}
    w.join(*(prediction(name, "x") | {"features": {"flag": value}} for name, value in sent.items()))
    w.join(prediction("d", "x") | {"segments": {"flag": 1}}, *(label(name, "x") for name in "abcd"))
    counted = [one for entry in entries(w) for one in (entry.segments or {}).get("flag", {}).items()]
    assert [(name, errors.count) for name, errors in counted] == [("true", 4)]


def test_segments_come_from_the_event_and_from_features_that_the_spec_names() -> None:
    w = world(m=ModelSpec(segments=("carrier", "missing")))
    w.join(
        prediction("a", "x") | {"segments": {"route": "EWR", "first": True, "none": None}},
        prediction("b", "x") | {"segments": {"carrier": "overruled"}},
        label("a", "x"),
        label("b", "y"),
    )
    (entry,) = entries(w)
    assert entry.segments is not None
    counts = {name: {v: (c.count, c.error_sum) for v, c in by.items()} for name, by in entry.segments.items()}
    assert counts == {
        "carrier": {"UA": (1, 0.0), "overruled": (1, 1.0)},
        "route": {"EWR": (1, 0.0)},
        "first": {"true": (1, 0.0)},
    }
