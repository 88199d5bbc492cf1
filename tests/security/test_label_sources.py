"""Whose labels count is the model's to say: others change nothing and are reported, whatever came first."""

from __future__ import annotations

import base64

import orjson
import pytest
from driftloop.schemas.errors import SpecError
from driftloop.schemas.spec.file import parse_deployment
from driftloop.schemas.spec.model import Join, LabelRules, ModelSpec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.join.world import JoinWorld, label, prediction, rules_of

EXPERTS = ModelSpec(labels=LabelRules(allowed_sources=("expert", "system")))


def world(**specs: ModelSpec) -> JoinWorld:
    return JoinWorld(rules_of(Join(), **(specs or {"m": EXPERTS})), capacity=1_000)


def by(source: str, **fields: object) -> dict[str, object]:
    return label("a", "on_time") | {"source": source} | fields


@pytest.mark.parametrize("label_first", [False, True])
def test_a_label_of_a_source_that_is_not_allowed_goes_to_dead_letters_with_its_reason(
    label_first: bool,
) -> None:
    w = world()
    events = [prediction("a", "late"), by("user")]
    for event in reversed(events) if label_first else events:
        w.join(event)
    assert not w.outcomes
    (letter,) = w.dead_letters
    assert letter.reason == "Label: source: 'user' is not among the labels.allowed_sources of m"
    assert letter.topic.endswith("labels")
    assert orjson.loads(base64.b64decode(letter.value_b64 or ""))["source"] == "user"
    assert w.totals()["dead"] == 1


def test_a_label_of_an_allowed_source_counts_before_and_after_one_that_does_not() -> None:
    w = world()
    w.send(prediction("a", "late"))
    for source in ("user", "expert", "user"):
        w.join(by(source))
    (outcome,) = w.outcomes
    assert (outcome.source, outcome.revision) == ("expert", 0)
    assert len(w.dead_letters) == 2


def test_a_source_that_is_not_allowed_cannot_revise_an_outcome() -> None:
    # The weakest source by rank, and the only one allowed.
    w = world(m=ModelSpec(labels=LabelRules(allowed_sources=("user",))))
    w.join(prediction("a", "late"), by("user", label="late"), by("expert", label="on_time"))
    assert [outcome.label for outcome in w.outcomes] == ["late"]
    assert len(w.dead_letters) == 1


def test_a_label_that_names_no_source_is_the_systems() -> None:
    for allowed, expected in ((("system",), 1), (("expert",), 0)):
        w = world(m=ModelSpec(labels=LabelRules(allowed_sources=allowed)))
        w.send(prediction("a", "late"))
        unnamed = label("a", "on_time")
        del unnamed["source"]
        w.join(unnamed)
        assert len(w.outcomes) == expected


def test_each_model_says_for_itself() -> None:
    w = world(m=EXPERTS, open=ModelSpec())
    w.join(prediction("a", "late"), prediction("a", "late") | {"model": "open"}, by("user"))
    assert [outcome.model for outcome in w.outcomes] == ["open"]


def test_a_refused_label_is_reported_once_over_a_restart_from_nothing() -> None:
    w = world()
    w.join(prediction("a", "late"), by("user"))
    w.die(disk_lost=True)
    w.restore()
    w.join(by("expert"))
    assert [outcome.source for outcome in w.outcomes] == ["expert"]
    assert len(w.dead_letters) == 1


@given(st.text(min_size=1, max_size=64))
def test_only_the_very_names_of_the_list_are_allowed(source: str) -> None:
    w = world(m=ModelSpec(labels=LabelRules(allowed_sources=("expert",))))
    w.join(prediction("a", "late"), by(source))
    assert len(w.outcomes) == (source == "expert")
    assert len(w.outcomes) + len(w.dead_letters) == 1


def test_the_key_is_read_from_the_file_and_named_when_it_is_wrong() -> None:
    read = parse_deployment('[models.m.labels]\nallowed_sources = ["expert", "system"]')
    assert read.models["m"].labels.allowed_sources == ("expert", "system")
    assert parse_deployment("[models.m]").models["m"].labels.allowed_sources is None
    for wrong in ("[]", '"expert"', '[""]', "[1]"):
        with pytest.raises(SpecError, match=r"labels\.allowed_sources"):
            parse_deployment(f"[models.m.labels]\nallowed_sources = {wrong}")


def test_a_spec_with_the_key_is_another_spec() -> None:
    assert ModelSpec().digest() != EXPERTS.digest()
