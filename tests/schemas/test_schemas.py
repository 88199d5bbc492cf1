"""The language: what encodes decodes, and every mistake in a spec is named."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from driftloop.schemas.base import class_name
from driftloop.schemas.errors import DecodeError, SpecError
from driftloop.schemas.events import Outcome, Prediction
from driftloop.schemas.export import EVENTS, asyncapi, json_schemas
from driftloop.schemas.ids import event_id
from driftloop.schemas.partition import murmur2, partition_of
from driftloop.schemas.spec.file import load_deployment, parse_deployment
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.topics import CATALOGUE, CO_PARTITIONED

GOOD = {
    "prediction_id": "a", "model": "m", "version": 1, "ts": 5, "features": {"x": 1.5}, "prediction": "late",
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"prediction_id": "a"', "EOF"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b"", "EOF"),
        (orjson.dumps(GOOD | {"version": "1"}), "version"),
        (orjson.dumps(GOOD | {"prediction_id": ""}), "prediction_id"),
        (orjson.dumps(GOOD).replace(b"1.5", b"NaN"), "features.x"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "recursion"),
        (orjson.dumps({k: v for k, v in GOOD.items() if k != "prediction"}), "prediction"),
    ],
)
def test_a_malformed_prediction_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        Prediction.decode(data)


def test_unknown_fields_survive_the_journey_through_an_event() -> None:
    event = Prediction.decode(orjson.dumps(GOOD | {"from_the_future": {"a": [1]}}))
    assert orjson.loads(event.encode())["from_the_future"] == {"a": [1]}


def test_null_features_survive_encoding() -> None:
    event = Prediction.decode(orjson.dumps(GOOD | {"features": {"x": None}}))
    assert orjson.loads(event.encode())["features"] == {"x": None}


def test_the_model_is_the_first_field_of_an_outcome() -> None:
    outcome = Outcome.model_validate(GOOD | {"label": "x", "label_ts": 2, "label_delay_ms": 1, "seq": 0})
    assert outcome.encode().startswith(b'{"model":"m",')


@pytest.mark.parametrize(("value", "name"), [(1, "1"), (1.0, "1"), ("1", "1"), (True, "true"), (0.5, "0.5")])
def test_a_class_has_one_name_however_it_is_written(value: object, name: str) -> None:
    assert class_name(value) == name  # type: ignore[arg-type]


# Values from Apache Kafka's own UtilsTest.testMurmur2.
@pytest.mark.parametrize(
    ("key", "expected"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
     (b"a-little-bit-longer-string", -1486304829),
     (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971)],
)  # fmt: skip
def test_murmur2_is_java_s(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32
    assert partition_of(key, 7) == (expected & 0x7FFFFFFF) % 7


def test_an_id_depends_on_where_one_cause_ends_and_the_next_begins() -> None:
    assert event_id("t", "a", "bc") != event_id("t", "ab", "c")
    assert event_id("t", "a", 1) == event_id("t", "a", 1)


def test_every_topic_names_an_event_that_is_exported() -> None:
    document = asyncapi("x.", "0")
    for topic in CATALOGUE:
        assert document["channels"][topic.name]["address"] == f"x.{topic.name}"
        if topic.event != "snapshot bytes":
            assert document["channels"][topic.name]["messages"]
    assert {topic.plane for topic in CO_PARTITIONED} == {"data"}


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi("x.", "0")
    refs: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            refs.extend(value for key, value in node.items() if key == "$ref")
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert refs
    for ref in refs:
        node: object = document
        for part in ref.removeprefix("#/").split("/"):
            assert isinstance(node, dict)
            node = node[part]


def test_every_event_has_a_json_schema() -> None:
    assert set(json_schemas()) == {event.__name__ for event in EVENTS}


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ('[join]\nhorizon = "7x"', "join.horizon = '7x': write a duration"),
        (
            '[models.m]\nclases = ["a"]',
            "models.m.clases = ['a']: there is no such key; did you mean 'classes'?",
        ),
        ('[models.m.features]\nx = "nmber"', "models.m.features.x.type = 'nmber': Input should be 'number'"),
        (
            "[models.m.detectors.adwin]\ndetla = 3",
            "models.m.detectors.adwin.detla = 3: there is no such key; did you",
        ),
        (
            '[models.m.learner]\nkind = "hgb"\nmax_itr = 4',
            "max_itr = 4: there is no such key; did you mean 'max_iter'?",
        ),
        (
            '[models.m.triggers]\nschedule = "daily"',
            "models.m.triggers.schedule = 'daily': write a schedule as five",
        ),
        ('[models.m]\ntask = "regression"\nclasses = ["a"]', "classes has no effect on a regression"),
        (
            '[models.m]\nclasses = ["a", "b"]\n[models.m.gates.cost.matrix.A]\nb = 5.0',
            "gates.cost.matrix names A, and classes has a, b",
        ),
        (
            '[models.m]\ntask = "regression"\n[models.m.gates.significance]\ntest = "mcnemar"',
            'has neither: write "bootstrap"',
        ),
        ("[models.m.window]\nfollow_ups = [10]", "follow_ups must ascend"),
        ('[models."bad name"]', "models.bad name"),
        ("[models.m", "not valid TOML"),
        (
            '[models.m.features]\nsepal.length = "number"',
            "models.m.features.sepal.length = 'number': to TOML a name with a dot is a table in a table: "
            'write "sepal.length" in quotes',
        ),
        ('[models.m.features]\na.b.c = "bool"', 'write "a.b.c" in quotes'),
        ('[models.m.features.sepal.length]\ntype = "number"', 'write "sepal.length" in quotes'),
        ('[models.m.features]\na.b = {type = "number", privacy = "hash"}', 'write "a.b" in quotes'),
        ('[models.m.features]\na.b.c = {type = "number"}', 'write "a.b.c" in quotes'),
        ('[models.m.features]\nx = {type = "bool", privcy = "hash"}', "did you mean 'privacy'?"),
        ('[models.my.model]\ntask = "regression"', 'write "my.model" in quotes'),
        ('[models.my.model.features]\nx = "number"', 'write "my.model" in quotes'),
        ('[models.m.featurs]\nx = "number"', "did you mean 'features'?"),
        (
            "[models.m.gates.cost.matrix]\non.time = {late = 2}",
            "this is a table: a name with a dot stands in",
        ),
        ("[models.m.gates.cost.matrix.late]\non.time = 2", "this is a table: a name with a dot stands in"),
        (
            '[models.m.features]\nsepal = "number"\nsepal.length = "number"',
            'write the name in quotes: "sepal.length" = "number"',
        ),
        (
            '[models.m.features]\nsepal length = "number"',
            'the name in quotes: "sepal length" = "number"',
        ),
        ('[models.m.features]\nlänge = "number"', 'write the name in quotes: "länge" = "number"'),
        ("[models.m.features]\nx = number", '; text stands in quotes (x = "number")'),
        ("[models.m.detectors.adwin]\nenabled = True", "true and false are in small letters"),
    ],
)
def test_each_mistake_in_a_spec_is_named_by_key_value_and_fix(toml: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_deployment(toml)
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_an_unquoted_name_is_one_mistake_and_not_three() -> None:
    with pytest.raises(SpecError) as caught:
        parse_deployment('[models.m.features]\nsepal.length = "number"\nsepal.width = "number"\nx = "number"')
    assert [line.rpartition("write ")[2] for line in caught.value.problems] == [
        '"sepal.length" in quotes', '"sepal.width" in quotes',
    ]  # fmt: skip


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "driftloop.toml"
    for encoding, problem in {
        "utf-8-sig": "it begins with a byte order mark: save it as UTF-8 without one",
        "utf-16": r"it is UTF-16 \(byte 0\): save it as UTF-8",
        "latin-1": r"it is not UTF-8 text \(byte 2\): save it as UTF-8",
    }.items():
        file.write_text("# é", encoding=encoding)
        with pytest.raises(SpecError, match=problem):
            load_deployment(file)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_deployment('[join]\nhorizon = "7x"\n[models.m]\nclases = 1\ntask = "guess"')
    assert len(caught.value.problems) == 3


def test_a_missing_file_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="DRIFTLOOP_CONFIG"):
        load_deployment(tmp_path / "driftloop.toml")


def test_a_spec_s_digest_survives_publishing() -> None:
    spec = parse_deployment('[models.m]\nclasses = [1, 2]\n[models.m.features]\nx = "number"').models["m"]
    again = ModelSpec.model_validate(orjson.loads(orjson.dumps(spec.model_dump(mode="json"))))
    assert again == spec
    assert again.digest() == spec.digest()
    assert spec.classes == ("1", "2")
